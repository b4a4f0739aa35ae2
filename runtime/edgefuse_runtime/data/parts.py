"""Token ids of texts that go on from one another, as a completion goes on from its prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tokenizers import Tokenizer

from edgefuse_runtime.data.chunks import chunks


class Frame(NamedTuple):
    """Special tokens that a tokenizer puts around a text.

    Attributes:
        before: Token ids before the text.
        after: Token ids behind it.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]


def frame_of(tokenizer: Tokenizer) -> Frame:
    """Find the special tokens that a tokenizer puts around a text."""
    with uncut(tokenizer):
        bare = tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.encode("a").ids
    starts = (start for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
    start = next(starts, 0)
    return Frame(tuple(whole[:start]), tuple(whole[start + len(bare) :]))


@contextmanager
def uncut(tokenizer: Tokenizer) -> Iterator[None]:
    """Let a tokenizer cut no text while the block runs."""
    limits = tokenizer.truncation
    tokenizer.no_truncation()
    try:
        yield
    finally:
        if limits:
            tokenizer.enable_truncation(**limits)


def tokenize_parts(tokenizer: Tokenizer, rows: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Token ids of the parts of texts, without special tokens around them, uncut.

    A part gets the ids that it has behind those before it. Where a token would reach over the
    boundary, it gets those that it has alone: what a model reads before a part is the same
    whatever the part is, as when it is yet to be written.

    Args:
        tokenizer: A tokenizer.
        rows: Parts of each text.

    Returns:
        Token ids of every part of each text.
    """
    parts: list[list[list[int]]] = [[] for _ in rows]
    ids: list[list[int]] = [[] for _ in rows]
    with uncut(tokenizer):
        for depth in range(max(map(len, rows), default=0)):
            going = [index for index, row in enumerate(rows) if len(row) > depth]
            texts = ["".join(rows[index][: depth + 1]) for index in going]
            for index, joined in zip(going, _encode(tokenizer, texts), strict=True):
                before = ids[index]
                if joined[: len(before)] == before:
                    part = joined[len(before) :]
                else:
                    part = tokenizer.encode(rows[index][depth], add_special_tokens=False).ids
                parts[index].append(part)
                ids[index] = before + part
    return parts


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    for some in chunks(texts, len):
        for encoding in tokenizer.encode_batch_fast(some, add_special_tokens=False):
            yield encoding.ids
