"""A squeeze as a line on stderr, silent when stderr is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from edgefuse.squeezing.record import Round
from edgefuse.squeezing.squeeze import Observer


@contextmanager
def squeeze_progress() -> Iterator[Observer]:
    """Show the round, its step and what the rounds before reached, while the block runs."""
    console = Console(stderr=True)
    reached = ""
    with console.status("loading …") as status:

        def on_batch(index: int, batch: int, batches: int) -> None:
            status.update(f"round {index}: what the task feels {batch}/{batches}{reached}")

        def on_step(index: int, step: int, steps: int) -> None:
            status.update(f"round {index}: training step {step}/{steps}{reached}")

        def on_round(one: Round) -> None:
            nonlocal reached
            if one.kept:
                reached = f", before: {one.parameters / 1e6:.2f} M parameters, {one.accuracy:.1%}"
            status.update(f"cutting bonds{reached}")

        yield Observer(on_batch, on_step, on_round)
