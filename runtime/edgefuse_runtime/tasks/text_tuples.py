"""Rows of several texts: tokenized once each, however often a text occurs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from edgefuse_runtime.data.batching import Feeds, pad
from edgefuse_runtime.data.tokenization import TokenIds, refuse_tokenless, tokenize


@dataclass(frozen=True)
class TextTuple:
    """The tokenized texts of a row.

    Attributes:
        numbers: Number of each text among the distinct texts of its file.
        encoded: Token ids of each text, of shape (tokens,).
    """

    numbers: tuple[int, ...]
    encoded: tuple[TokenIds, ...]

    @property
    def token_ids(self) -> TokenIds:
        """Token ids of all texts, one after another."""
        return np.concatenate(self.encoded)


def encode_rows(
    rows: Sequence[Sequence[str]], tokenizer: Tokenizer, *, prompt: str, places: Sequence[str]
) -> list[TextTuple]:
    """Tokenize the texts of all rows, each distinct text once.

    Args:
        rows: Texts of each row, of which there may be other counts in other rows.
        tokenizer: The bundle's, which cuts long texts.
        prompt: Words that are put before every text.
        places: File and line of each row, as messages name it.

    Raises:
        DataError: A text has no token; the message names file and line.
    """
    numbers: dict[str, int] = {}
    for text in (text for row in rows for text in row):
        numbers.setdefault(text, len(numbers))
    encoded = tokenize(tokenizer, [f"{prompt}{text}" for text in numbers])
    tuples = []
    for row in rows:
        own = tuple(numbers[text] for text in row)
        tuples.append(TextTuple(own, tuple(encoded[number] for number in own)))
    refuse_tokenless([min(row.encoded, key=len) for row in tuples], places)
    return tuples


def positions(examples: Iterable[TextTuple]) -> dict[int, int]:
    """Where each distinct text of a batch stands in the arrays that `text_feeds` makes.

    Returns:
        Rows of `input_ids`, and of the embeddings that a model gives, by the texts' numbers.
    """
    numbers = dict.fromkeys(number for example in examples for number in example.numbers)
    return {number: position for position, number in enumerate(numbers)}


def text_feeds(examples: Sequence[TextTuple], *, padding_id: int) -> Feeds:
    """Token ids and mask of the distinct texts of a batch, both (texts, tokens)."""
    encoded = {
        number: token_ids
        for example in examples
        for number, token_ids in zip(example.numbers, example.encoded, strict=True)
    }
    input_ids, mask = pad([encoded[number] for number in positions(examples)], padding_id)
    return {"input_ids": input_ids, "attention_mask": mask}
