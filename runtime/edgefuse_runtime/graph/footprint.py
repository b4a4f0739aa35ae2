"""What a graph holds in memory, as a function of a batch's sizes."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct


class Term(Struct, frozen=True, forbid_unknown_fields=True):
    """A summand: bytes · rows^a · tokens^b.

    Attributes:
        bytes: The factor.
        rows: Exponent of the count of rows.
        tokens: Exponent of the count of tokens in a row.
        chunk: Where the tokens of all rows are taken in chunks, the size of one; they are one row.
    """

    bytes: float
    rows: int
    tokens: int
    chunk: int = 0

    def at(self, rows: int, tokens: int) -> float:
        """Bytes for a batch."""
        if self.chunk:
            rows, tokens = 1, min(rows * tokens, self.chunk)
        return float(self.bytes * rows**self.rows * tokens**self.tokens)


_Power: TypeAlias = tuple[int, int, int]
"""Exponents of rows and tokens, and the size of a chunk."""


class Footprint(Struct, frozen=True, forbid_unknown_fields=True):
    """The most that is held at once: the largest of some sums.

    Attributes:
        moments: Sums of terms, one for each moment that may be the largest.
    """

    moments: list[list[Term]]

    def at(self, rows: int, tokens: int) -> int:
        """Bytes for a batch.

        Args:
            rows: Count of rows.
            tokens: Count of tokens in each, padding included.
        """
        return int(max((bytes_of(terms, rows, tokens) for terms in self.moments), default=0.0))

    def beside(self, terms: Iterable[Term]) -> "Footprint":
        """The same while something else is held all the time."""
        always = list(terms)
        return Footprint([added([*moment, *always]) for moment in self.moments or [[]]])

    def or_of(self, others: Iterable["Footprint"]) -> "Footprint":
        """The most of this and of others, which follow one another in the same memory."""
        moments = [*self.moments, *(moment for other in others for moment in other.moments)]
        return Footprint(largest(moments))


def bytes_of(terms: Iterable[Term], rows: int, tokens: int) -> float:
    """Sum of terms for a batch."""
    return sum(term.at(rows, tokens) for term in terms)


def added(terms: Iterable[Term]) -> list[Term]:
    """Terms of which none have the same exponents."""
    sums: dict[_Power, float] = {}
    for term in terms:
        power = term.rows, term.tokens, term.chunk
        sums[power] = sums.get(power, 0.0) + term.bytes
    return [Term(factor, *power) for power, factor in sorted(sums.items()) if factor]


def largest(moments: Sequence[Sequence[Term]]) -> list[list[Term]]:
    """Those of some sums that no other one exceeds for every batch."""
    kept: list[dict[_Power, float]] = []
    for moment in moments:
        factors = {(term.rows, term.tokens, term.chunk): term.bytes for term in added(moment)}
        if any(_exceeds(other, factors) for other in kept):
            continue
        kept = [other for other in kept if not _exceeds(factors, other)]
        kept.append(factors)
    return [[Term(factor, *power) for power, factor in sorted(one.items())] for one in kept]


def _exceeds(one: dict[_Power, float], other: dict[_Power, float]) -> bool:
    return all(one.get(power, 0.0) >= factor for power, factor in other.items())
