"""The one kind of observer of work in progress."""

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with the name of a stage, its steps that are done, and the count of its steps."""


def silent(_stage: str, _done: int, _total: int) -> None:
    """Show nothing."""


__all__ = ["OnProgress", "silent"]
