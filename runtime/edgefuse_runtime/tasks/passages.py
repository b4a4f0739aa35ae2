"""Rows of text generation: texts, prompts with completions, or chats, cut into parts."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.parts import frame_of, tokenize_parts
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.tokenization import TokenIds
from edgefuse_runtime.tasks.chat_template import ChatTemplate, messages_of
from edgefuse_runtime.tasks.prompts import PROMPT_ROW, prompt_of, text_in

_FORM = f'{PROMPT_ROW}, or {{"text": "the lamp is on"}}, or has "messages"'


class Passage(NamedTuple):
    """A text in parts.

    Attributes:
        place: File and line, as messages name it.
        parts: The text's parts.
        counted: Whether a part is one to learn, for each of them.
        framed: Whether the tokenizer's special tokens stand around it; a chat brings its own.
        asked: The text, or what was asked of the model.
        references: Every good completion, where the last part is one.
    """

    place: str
    parts: tuple[str, ...]
    counted: tuple[bool, ...]
    framed: bool
    asked: str
    references: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Count of its characters."""
        return sum(map(len, self.parts))


class EncodedPassage(NamedTuple):
    """A tokenized text.

    Attributes:
        token_ids: Token ids, of shape (tokens,).
        counted: Whether each of them is one to learn, of shape (tokens,).
        prompt: What was asked of the model, or the text.
        prompt_length: Count of tokens before the last completion, or of all where there is none.
        references: Every good completion; none where there is none.
        place: File and line, as messages name it.
        number: Number of the row, from 0.
    """

    token_ids: TokenIds
    counted: NDArray[np.bool_]
    prompt: str
    prompt_length: int
    references: tuple[str, ...]
    place: str
    number: int


def read_passages(path: Path, chats: ChatTemplate | None) -> Iterator[Passage]:
    """Read a file of texts, prompts with completions, or chats; rows may be of any of them.

    Args:
        path: A data file.
        chats: The model's chat template; None where it has none.

    Raises:
        DataError: The file cannot be read, or a row is broken; the message names file and line.
    """
    return (_passage(row, chats) for row in read_rows(path, _FORM))


def question_of(row: Row, chats: ChatTemplate | None) -> Passage:
    """What a row asks: its prompt, its chat up to an answer, or its text to go on with.

    Raises:
        DataError: It has none of them, or one that is broken.
    """
    if _kind(row) != "messages":
        text = text_in(row, _kind(row), _FORM)
        return Passage(row.place, (text,), (False,), framed=True, asked=text)
    messages, template = messages_of(row), _template(row, chats)
    if messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    text = template.prompt(messages, row.place)
    asked = str(messages[-1].get("content", "")) if messages else ""
    return Passage(row.place, (text,), (False,), framed=False, asked=asked)


def encode_passages(
    passages: Sequence[Passage], tokenizer: Tokenizer, *, end_id: int, first: int = 0
) -> list[EncodedPassage]:
    """Tokenize texts, and cut them to the tokenizer's length.

    A text or completion ends with `end_id`, unless it is cut. A chat's template says its ends.

    Args:
        passages: Texts in parts.
        tokenizer: The bundle's, which knows the length, and the side that is cut.
        end_id: Token id that ends a text.
        first: Number of the first one.

    Raises:
        DataError: A part has no token, or what is to learn begins behind the length.
    """
    limits, frame = tokenizer.truncation, frame_of(tokenizer)
    assert limits is not None
    length, side = int(limits["max_length"]), str(limits["direction"])
    encoded = []
    tokenized = tokenize_parts(tokenizer, [passage.parts for passage in passages])
    for number, (passage, parts) in enumerate(zip(passages, tokenized, strict=True), first):
        if not (all(parts) if passage.framed else any(parts)):
            raise DataError(
                f"{passage.place} has a text without a character that the model's tokenizer knows",
                "Remove the row, or begin from a model that reads its script",
            )
        before = list(frame.before) if passage.framed else []
        ids, counted = [*before], [False] * len(before)
        for part, counts in zip(parts, passage.counted, strict=True):
            ids += part
            counted += [counts] * len(part)
        prompt_length = len(ids) - len(parts[-1]) * counted[-1]
        asked = counted.index(True) if any(counted) else len(ids)
        if asked >= length:
            raise DataError(
                f"{passage.place} has a prompt of {asked} tokens, which leaves nothing of the "
                f"{length} that the model was exported for",
                "Shorten it, or export the model with a longer --sequence-length",
            )
        if passage.framed and counted[-1] and ids[-1] != end_id:
            ids.append(end_id)
            counted.append(True)
        if any(counted) and not any(counted[1:]):
            raise DataError(
                f"{passage.place} is one token, and there is none before it to learn it from",
                "Remove the row, or give it a text",
            )
        kept = _kept(len(ids), length, side, fixed=len(before))
        encoded.append(
            EncodedPassage(
                token_ids=np.array(ids, np.int32)[kept],
                counted=np.array(counted, np.bool_)[kept],
                prompt=passage.asked,
                prompt_length=int(np.searchsorted(kept, prompt_length)),
                references=passage.references,
                place=passage.place,
                number=number,
            )
        )
    return encoded


def _kept(count: int, length: int, side: str, *, fixed: int) -> NDArray[np.intp]:
    """Indices of the tokens that a length leaves; `fixed` ones at the beginning stay."""
    indices = np.arange(count)
    if count <= length:
        return indices
    if side == "left":
        return np.concatenate([indices[:fixed], indices[count - length + fixed :]])
    return indices[:length]


def _passage(row: Row, chats: ChatTemplate | None) -> Passage:
    match _kind(row):
        case "text":
            text = text_in(row, "text", _FORM)
            return Passage(row.place, (text,), (True,), framed=True, asked=text)
        case "prompt":
            prompt = prompt_of(row, _FORM)
            return Passage(
                row.place,
                (prompt.prompt, prompt.completion),
                (False, True),
                framed=True,
                asked=prompt.prompt,
                references=prompt.references,
            )
        case _:
            return _chat(row, chats)


def _chat(row: Row, chats: ChatTemplate | None) -> Passage:
    messages, template = messages_of(row), _template(row, chats)
    parts = template.parts(messages, row.place)
    return Passage(
        row.place,
        tuple(part.text for part in parts),
        tuple(part.answers for part in parts),
        framed=False,
        asked=str(messages[-2].get("content", "")),
        references=(str(messages[-1].get("content", "")),),
    )


def _kind(row: Row) -> str:
    """The one of `text`, `prompt` and `messages` that a row has.

    Raises:
        DataError: It has none, or several.
    """
    found = [kind for kind in ("text", "prompt", "messages") if row.fields.get(kind) is not None]
    if len(found) > 1:
        raise DataError(f'{row.place} has both "{found[0]}" and "{found[1]}"', _FORM)
    if not found:
        raise DataError(f'{row.place} has no "text", "prompt" or "messages"', _FORM)
    return found[0]


def _template(row: Row, chats: ChatTemplate | None) -> ChatTemplate:
    if chats is None:
        raise DataError(
            f'{row.place} has "messages", and the model\'s tokenizer has no chat template',
            'Write rows with "prompt" and "completion", or begin from a model for chats',
        )
    return chats
