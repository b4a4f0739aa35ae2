"""Rows in chunks, as many at once as a tokenizer is given."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_ITEMS = 1024
_CHARACTERS = 1 << 18
"""What a tokenizer makes of a text weighs a hundred times as much as the text."""


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut what comes into lists, of which each has one item at least and few characters.

    Args:
        items: What comes.
        size: Characters of an item.
    """
    chunk: list[T] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += size(item)
        if len(chunk) == _ITEMS or characters >= _CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
