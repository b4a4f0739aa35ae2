"""How long stages tell how far they are."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps that are done and how many there are."""

FUSING = "Fusing MLPs"
TEACHING = "Teaching them together"


def silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody is told."""
