"""Refusals of a name that is not known, with the names that are nearest to it."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_LISTED = 12
"""How many names a hint lists at most."""


def nearest(name: str, known: Iterable[str] | Mapping[str, str]) -> list[str]:
    """Find the known names that look most like a name, whatever their case.

    Args:
        name: The name that was given.
        known: Names to choose from, or what people write for them → the names.

    Returns:
        Three names at most, the nearest one first.
    """
    names = dict(known) if isinstance(known, Mapping) else {one: one for one in known}
    spellings = {spelling.lower(): chosen for spelling, chosen in names.items()}
    close = get_close_matches(name.lower(), spellings, n=3, cutoff=0.5)
    return list(dict.fromkeys(spellings[spelling] for spelling in close))


def suggest(
    name: str, known: Iterable[str] | Mapping[str, str], *, listing: str | None = None
) -> str:
    """Make the hint of a refusal: the nearest names, and what names there are.

    Args:
        name: The name that was given.
        known: Names to choose from, or what people write for them → the names.
        listing: Where the names are listed, in words; None lists them here.
    """
    known = known if isinstance(known, Mapping) else list(known)
    near = nearest(name, known)
    question = f"Did you mean {' or '.join(near)}? " if near else ""
    return question + (_list(list(known)) if listing is None else listing)


def unknown(
    kind: str,
    name: str,
    known: Iterable[str] | Mapping[str, str],
    *,
    listing: str | None = None,
) -> tuple[str, str]:
    """Make the problem and the hint of an error about a name that is not known.

    Args:
        kind: What the name should be one of, such as `method`.
        name: The name that was given.
        known: Names to choose from, or what people write for them → the names.
        listing: Where the names are listed, in words; None lists them here.
    """
    return f"There is no {kind} {name!r}", suggest(name, known, listing=listing)


def _list(names: list[str]) -> str:
    if len(names) == 1:
        return f"There is only {names[0]}"
    if len(names) <= _LISTED:
        return f"There are {', '.join(names[:-1])} and {names[-1]}"
    return f"There are {', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"


__all__ = ["nearest", "suggest", "unknown"]
