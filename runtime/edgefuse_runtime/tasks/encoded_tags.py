"""Rows of tagged words and texts with entities, tokenized: a class at each word's first piece."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import DataError
from edgefuse_devices.names import suggest
from edgefuse_runtime.data.chunks import chunks
from edgefuse_runtime.data.tokenization import TokenIds
from edgefuse_runtime.data.words import NO_WORD, Words, encode_words, split_texts
from edgefuse_runtime.tasks.tagged_rows import MarkedText, TaggedWords, read_tagged_rows
from edgefuse_runtime.tasks.tagging import OUTSIDE, Tagging

IGNORED = -100
"""What stands for a class at a token that is not the first piece of a word, as transformers has
it."""


class EncodedWords(NamedTuple):
    """A row of words, tokenized.

    Attributes:
        token_ids: Token ids, of shape (tokens,).
        classes: Class of the word that a token is the first piece of, else `IGNORED`, of shape
            (tokens,); None where nothing is known.
        unread: Count of words whose first piece was cut off, or that have no piece.
    """

    token_ids: TokenIds
    classes: NDArray[np.int32] | None = None
    unread: int = 0


def read_encoded(file: Path, tokenizer: Tokenizer, tagging: Tagging) -> Iterator[EncodedWords]:
    """Read and tokenize a file of tagged words, or of texts with entities.

    A word that an entity touches is the entity's, as with spaCy's `alignment_mode="expand"`.

    Args:
        file: The file.
        tokenizer: The bundle's, which cuts long texts.
        tagging: What each class says of a word.

    Raises:
        DataError: A row is broken, has no word that the tokenizer knows, an unknown tag or one that
            breaks the scheme; the message names file and line.
    """
    for rows in chunks(read_tagged_rows(file), lambda row: row.size):
        # Tags first: a wrong one is found before anything is tokenized.
        classes = [_classes(row, tagging) if isinstance(row, TaggedWords) else [] for row in rows]
        tagged = [row.words for row in rows if isinstance(row, TaggedWords)]
        marked = [row.text for row in rows if isinstance(row, MarkedText)]
        of_words = iter(encode_words(tokenizer, tagged))
        of_texts = iter(split_texts(tokenizer, marked))
        for row, own in zip(rows, classes, strict=True):
            if isinstance(row, TaggedWords):
                yield _encode(next(of_words), own, row.place)
            else:
                words = next(of_texts)
                yield _encode(words, _classes_of_entities(words, row, tagging), row.place)


def refuse_unknown(words: Words, place: str) -> None:
    """Refuse a text of which no word has a token.

    Raises:
        DataError: None has.
    """
    if all((window.words == NO_WORD).all() for window in words.windows):
        raise DataError(
            f"{place} has no character that the model's tokenizer knows",
            "Remove the text, or begin from a model that reads its script",
        )


def _encode(words: Words, classes: Sequence[int], place: str) -> EncodedWords:
    refuse_unknown(words, place)
    window = words.windows[words.kept]
    first = window.words != NO_WORD
    if not first.any():
        raise DataError(
            f"{place} has no word whose first token is within the {len(window.token_ids)} that are "
            "read",
            "Remove the row, or export with a greater --sequence-length",
        )
    labels = np.full(len(window.token_ids), IGNORED, np.int32)
    labels[first] = np.array(classes, np.int32)[window.words[first]]
    return EncodedWords(window.token_ids, labels, len(words.spans) - int(first.sum()))


def _classes(row: TaggedWords, tagging: Tagging) -> list[int]:
    classes = []
    for number, (word, tag) in enumerate(zip(row.words, row.tags, strict=True), start=1):
        found = tagging.find(tag)
        if found is None:
            raise DataError(
                f"{row.place} has the unknown tag {tag!r} at token {number}, {word!r}",
                suggest(tag, tagging.labels),
            )
        classes.append(found)
    broken = tagging.first_break(classes)
    if broken is not None:
        before = f"after {row.tags[broken - 1]}" if broken else "at the beginning"
        raise DataError(
            f"{row.place} has {row.tags[broken]} at token {broken + 1}, {row.words[broken]!r}, "
            f"{before}, where no such entity has begun",
            "Begin each entity with B-, as IOB2 does; convert tags that are in IOB1",
        )
    return classes


def _classes_of_entities(words: Words, row: MarkedText, tagging: Tagging) -> list[int]:
    outside = tagging.find(OUTSIDE)
    if outside is None:
        raise DataError(
            f"{row.place} has entities, and none of the model's tags is O, for words outside",
            "Give rows with tokens and tags",
        )
    classes = [outside] * len(words.spans)
    taken = [False] * len(words.spans)
    starts, ends = np.array(words.spans).reshape(-1, 2).T
    for (start, end), label in row.entities:
        touched = np.flatnonzero((starts < end) & (ends > start))
        spelled = tagging.spell(label, len(touched)) if len(touched) else []
        if spelled is None:
            raise DataError(
                f"{row.place} has the unknown entity {label!r}", suggest(label, tagging.types)
            )
        for index, found in zip(touched, spelled, strict=True):
            if taken[index]:
                word = row.text[slice(*words.spans[index])]
                raise DataError(
                    f"{row.place} has two entities in {word!r}, which is one word to the model's "
                    "tokenizer",
                    "A word has one tag: keep one of the two, or put a space between them",
                )
            classes[index], taken[index] = found, True
    return classes
