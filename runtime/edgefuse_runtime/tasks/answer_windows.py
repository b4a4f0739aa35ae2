"""Contexts cut into overlapping windows, each a row of tokens behind its question.

Windows are those of transformers' `tokenizer(question, context, truncation="only_second",
stride=…, return_overflowing_tokens=True)`, and what they are trained on is as in its run_qa.py: the
first and the last token of the answer, or, in a window that does not hold it, the CLS token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.tokenization import TokenIds, limit_length
from edgefuse_runtime.tasks.answered_questions import Answer, Question

_CHUNK = 256
_USUAL_STRIDE = 128
_SHARE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A question and a part of its context: an example to train on, or to find an answer in.

    Attributes:
        row: The question with its whole context: one object for all its windows.
        windows: Count of these windows.
        token_ids: Token ids, of shape (tokens,).
        token_types: Types of the tokens, 0 in the question and 1 in the context, int8 (tokens,).
        first: Index of the first token of the context.
        offsets: Begin and end of each token of the context in its characters, (tokens of it, 2).
        null: Index of the token that stands for an answer that is not here.
        span: Indices of the answer's first and last token; `null` twice where it is not here.
    """

    row: Question
    windows: int
    token_ids: TokenIds
    token_types: NDArray[np.int8]
    first: int
    offsets: NDArray[np.int32]
    null: int
    span: tuple[int, int]


def usual_stride(length: int) -> int:
    """Count of tokens that windows share where nobody says it: 128, or a third of shorter ones.

    Args:
        length: Most tokens of a window.
    """
    return min(_USUAL_STRIDE, length // _SHARE)


def cut_windows(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    stride: int | None,
    null_tokens: Sequence[int],
) -> Iterator[list[Window]]:
    """Cut contexts into windows that overlap.

    Args:
        tokenizer: A tokenizer that cuts texts; its length is that of a window.
        questions: Questions with their contexts.
        stride: Count of the context's tokens that a window shares with the next, as transformers
            has it; None for `usual_stride`. A question that leaves no more than so many gets
            windows that share half of what it leaves.
        null_tokens: Token ids that stand for an answer that is not in a window, the first one that
            a window has; its first token does where it has none.

    Yields:
        The windows of each question.

    Raises:
        DataError: A question leaves no room for its context, or the tokenizer knows no character
            of a context.
    """
    limits = tokenizer.truncation
    assert limits is not None
    length, side = limits["max_length"], limits["direction"]
    stride = usual_stride(length) if stride is None else stride
    try:
        for start in range(0, len(questions), _CHUNK):
            chunk = questions[start : start + _CHUNK]
            encoded = _encode(tokenizer, chunk, length, side, stride)
            for question, parts in zip(chunk, encoded, strict=True):
                yield [_window(question, part, len(parts), null_tokens) for part in parts]
    finally:
        limit_length(tokenizer, length, side)


def _encode(
    tokenizer: Tokenizer, questions: Sequence[Question], length: int, side: str, stride: int
) -> list[list[Encoding]]:
    """Every window of each question."""
    strides = _strides(tokenizer, questions, length, stride)
    encodings: dict[int, list[Encoding]] = {}
    for shared in sorted(set(strides)):
        tokenizer.enable_truncation(length, stride=shared, strategy="only_second", direction=side)
        rows = [index for index, own in enumerate(strides) if own == shared]
        pairs = [(questions[row].text, questions[row].context) for row in rows]
        for row, encoding in zip(rows, tokenizer.encode_batch(pairs), strict=True):
            encodings[row] = [encoding, *encoding.overflowing]
    return [encodings[row] for row in range(len(questions))]


def _strides(
    tokenizer: Tokenizer, questions: Sequence[Question], length: int, stride: int
) -> list[int]:
    """Count of tokens that the windows of each question share."""
    tokenizer.no_truncation()
    special = tokenizer.num_special_tokens_to_add(is_pair=True)
    texts = [question.text for question in questions]
    strides = []
    for question, encoding in zip(
        questions, tokenizer.encode_batch_fast(texts, add_special_tokens=False), strict=True
    ):
        if not encoding.ids:
            raise DataError(
                f"{question.place} has a question without a character that the model's tokenizer "
                "knows",
                "Remove the row, or begin from a model that reads its script",
            )
        room = length - special - len(encoding.ids)
        if room < 1:
            raise DataError(
                f"{question.place} has a question of {len(encoding.ids)} tokens, which leaves no "
                f"room for its context in a window of {length}",
                "Shorten it, or export the model with a longer --sequence-length",
            )
        strides.append(stride if stride < room else room // 2)
    return strides


def _window(
    question: Question, encoding: Encoding, windows: int, null_tokens: Sequence[int]
) -> Window:
    tokens = _tokens_of_context(encoding)
    if not tokens:
        raise DataError(
            f"{question.place} has a context without a character that the model's tokenizer knows",
            "Remove the row, or begin from a model that reads its script",
        )
    first = tokens[0]
    offsets = np.array(encoding.offsets[first : tokens[-1] + 1], np.int32)
    ids: list[int] = encoding.ids
    null = next((ids.index(token) for token in null_tokens if token in ids), 0)
    inside = _span(question.answers[0], offsets) if question.answers else None
    return Window(
        row=question,
        windows=windows,
        token_ids=np.array(ids, np.int32),
        token_types=np.array(encoding.type_ids, np.int8),
        first=first,
        offsets=offsets,
        null=null,
        span=(first + inside[0], first + inside[1]) if inside else (null, null),
    )


def _tokens_of_context(encoding: Encoding) -> list[int]:
    """Indices of the second text's tokens, which are neighbours.

    A tokenizer without a post-processor says of no window but the first which text is which, and
    adds no tokens of its own.
    """
    return [
        index
        for index, (text, special) in enumerate(
            zip(encoding.sequence_ids, encoding.special_tokens_mask, strict=True)
        )
        if text == 1 or (text is None and not special)
    ]


def _span(answer: Answer, offsets: NDArray[np.int32]) -> tuple[int, int] | None:
    """The first and the last token of an answer; None where a window does not hold all of it.

    A character may be several tokens: all of them belong to the answer.
    """
    text = answer.text.lstrip()
    begin = answer.start + len(answer.text) - len(text)
    end = begin + len(text.rstrip())
    if not offsets[0, 0] <= begin <= end <= offsets[-1, 1]:
        return None
    return int(np.argmax(offsets[:, 1] > begin)), int(np.flatnonzero(offsets[:, 0] < end)[-1])
