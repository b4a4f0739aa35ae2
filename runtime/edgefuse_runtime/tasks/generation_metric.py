"""Figures of the texts that a model writes for prompts, beside good ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edgefuse_devices.errors import DataError
from edgefuse_devices.options import option
from edgefuse_runtime.tasks.generation import MAX_NEW_TOKENS, GenerationOptions, Written
from edgefuse_runtime.tasks.task import Figures
from edgefuse_runtime.tasks.text_metrics import TextMetric


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured beside the loss; the flags of `evaluate`.

    Attributes:
        generate: Whether the model writes a text for every prompt.
        max_new_tokens: Most tokens of a text; None for the default of `predict`.
    """

    generate: bool = option(
        False,  # noqa: FBT003 - a field's default
        help="Let the model write for every prompt, and compare: exact match, chrF and BLEU.",
        shown="",
    )
    max_new_tokens: int | None = option(
        None, help="Most tokens of a text that is written.", shown=str(MAX_NEW_TOKENS)
    )

    def writing(self) -> GenerationOptions | None:
        """How texts are written: by the likeliest tokens; None where none are."""
        if not self.generate:
            return None
        if self.max_new_tokens is None:
            return GenerationOptions()
        return GenerationOptions(max_new_tokens=self.max_new_tokens)


class Judged(Protocol):
    """A tokenized row with completions to compare with."""

    @property
    def references(self) -> Sequence[str]:
        """Every good completion; none where there is none."""
        ...

    @property
    def place(self) -> str:
        """File and line, as messages name it."""
        ...


class GenerationMetric:
    """Exact match, chrF and BLEU of what a model writes, gathered batch by batch."""

    def __init__(
        self,
        write: Callable[[Sequence[Any]], Sequence[Written]],
        *,
        has_room: Callable[[Any], bool] = lambda _: True,
    ) -> None:
        """Begin with nothing seen.

        Args:
            write: Function that lets the model write for a batch.
            has_room: Function that says whether the model can write for a row at all.
        """
        self._write, self._has_room, self._metric = write, has_room, TextMetric()

    def check(self, examples: Sequence[Judged]) -> None:
        """Check all rows.

        Raises:
            DataError: A row has no completion to compare with, or no room for one.
        """
        for example in examples:
            if not example.references:
                raise DataError(
                    f"{example.place} has no completion to compare with",
                    'Leave --generate out, or write rows with "prompt" and "completion"',
                )
            if not self._has_room(example):
                raise DataError(
                    f"{example.place} is too long for the model to read its prompt and write a "
                    "completion",
                    "Leave --generate out, shorten the row, or export the model with a longer "
                    "--sequence-length",
                )

    def update(self, examples: Sequence[Judged]) -> None:
        """Let the model write for a batch, and compare."""
        for written, example in zip(self._write(examples), examples, strict=True):
            self._metric.update(written.text, example.references)

    def result(self) -> Figures:
        """The figures over all texts."""
        return self._metric.result()
