"""Tags of words, and the entities that they spell.

    IOB2    B-person I-person O      the first word of an entity, the others, words of none
    IOBES   B- I- E-, S-             E- is the last word, S- the only one; BILOU's L- and U- too
    plain   person person O          words of one tag in a row are an entity
    plain   NOUN VERB                without an O, as parts of speech: each word is one

An entity begins and ends where seqeval says so in its default mode, which is lenient: an I- that
follows no word of its type begins an entity (Ramshaw and Marcus, 1995, arXiv cmp-lg/9505040;
https://github.com/chakki-works/seqeval).
"""

import re
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.labels import LabelIndex

OUTSIDE = "O"

Classes = NDArray[np.intp]
"""Class of each word, of shape (words,)."""

_PREFIXED = re.compile(r"([BIELSU])-(.+)", re.DOTALL)
_NONE = -1


class Tagging:
    """What each class says of a word.

    Attributes:
        labels: Tag of each class, in the order of the logits.
        types: Types of entities, sorted.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        """Read the tags of all classes, in the order of the logits."""
        self.labels = labels
        self._index = LabelIndex(labels)
        parts = [split_tag(label) for label in labels]
        self.types = sorted({kind for _, kind in parts if kind})
        number = {kind: index for index, kind in enumerate(self.types)}
        self._types = np.array([number[kind] if kind else _NONE for _, kind in parts])
        each_word = OUTSIDE not in labels
        self._begins = np.array([p in ("B", "S", "U") or (not p and each_word) for p, _ in parts])
        self._ends = np.array([prefix in ("E", "L", "S", "U") for prefix, _ in parts])
        begun = {kind for prefix, kind in parts if prefix == "B"}
        self._continues = np.array([p in ("I", "E", "L") and kind in begun for p, kind in parts])

    def find(self, tag: str) -> int | None:
        """Class of a tag, whatever its case where one is meant; None where there is none."""
        return self._index.find(tag)

    def first_break(self, classes: Sequence[int]) -> int | None:
        """Index of the first word that goes on with an entity which has not begun; None for none.

        Where no tag of a type begins its entities, as in the labels of heads that were trained on
        IOB1, any may.
        """
        last = None
        for index, now in enumerate(classes):
            goes_on = last is not None and self._types[last] == self._types[now]
            if self._continues[now] and not (goes_on and not self._ends[last]):
                return index
            last = now
        return None

    def spell(self, kind: str, words: int) -> list[int] | None:
        """Classes that spell an entity, in the scheme that the labels are of.

        Args:
            kind: Type of the entity, in any case where one is meant.
            words: Count of the entity's words.

        Returns:
            A class for each word; None where the labels have none for the type.
        """
        if kind.casefold() == OUTSIDE.casefold():
            return None
        first, rest, last = ("B-", "I-", ""), ("I-", ""), ("E-", "L-", "I-", "")
        only = ("S-", "U-", "B-", "I-", "")
        places = [first, *[rest] * (words - 2), last] if words > 1 else [only]
        found = [self._first_of(kind, (*prefixes, "I-")) for prefixes in places]
        return None if None in found else [index for index in found if index is not None]

    def _first_of(self, kind: str, prefixes: Sequence[str]) -> int | None:
        found = (self.find(f"{prefix}{kind}") for prefix in prefixes)
        return next((index for index in found if index is not None), None)

    def entities(self, classes: Classes, rows: Classes) -> NDArray[np.intp]:
        """The entities that words spell.

        Args:
            classes: Class of each word of some rows, one row after the other, of shape (words,).
            rows: Index of each word's row, of shape (words,).

        Returns:
            First word, the word behind the last, and index of the type in `types`, of shape
            (entities, 3), in order.
        """
        if not len(classes):
            return np.zeros((0, 3), np.intp)
        types = self._types[classes]
        breaks = np.ones(len(classes), bool)
        breaks[1:] = (
            (rows[1:] != rows[:-1])
            | (types[1:] != types[:-1])
            | self._begins[classes[1:]]
            | self._ends[classes[:-1]]
        )
        starts = np.flatnonzero(breaks & (types != _NONE))
        places = np.append(np.flatnonzero(breaks), len(classes))
        ends = places[np.searchsorted(places, starts, side="right")]
        return np.stack([starts, ends, types[starts]], axis=1)


def split_tag(tag: str) -> tuple[str, str]:
    """The prefix of a tag and its type: ("B", "person"); ("", "NOUN"); ("", "") for O."""
    match = _PREFIXED.fullmatch(tag)
    if match:
        return match[1], match[2]
    return "", "" if tag == OUTSIDE else tag


def whole_scheme(tags: Collection[str]) -> list[str]:
    """Every tag of the types that some tags name, in the order of a new head: O, then by type.

    Args:
        tags: Tags of rows, which need not have an I- of each type, say.

    Returns:
        O and, of each type in order, all prefixes that any type has, B- and I- at least; where no
        tag has a prefix, the tags as they are.
    """
    parts = [split_tag(tag) for tag in tags]
    prefixes = {prefix for prefix, _ in parts} - {""}
    outside = [OUTSIDE] if prefixes or OUTSIDE in tags else []
    kinds = sorted({kind for _, kind in parts} - {""}, key=_by_value)
    if not prefixes:
        return [*outside, *kinds]
    used = [prefix for prefix in "BIELSU" if prefix in prefixes | {"B", "I"}]
    return [*outside, *(f"{prefix}-{kind}" for kind in kinds for prefix in used)]


def _by_value(tag: str) -> tuple[int, str]:
    """A key by which whole numbers are sorted by their value."""
    return (int(tag), "") if tag.isdecimal() else (-1, tag)
