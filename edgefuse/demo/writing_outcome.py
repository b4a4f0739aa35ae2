"""The result of the walk-through with a language model, read from what its commands wrote."""

from pathlib import Path

import msgspec
from msgspec import Struct

from edgefuse.demo.writing import AFTER, BEFORE, DEVICE
from edgefuse_devices.catalog import load_device
from edgefuse_runtime.inference.evaluation import Evaluation
from edgefuse_runtime.machine.emulation import emulated
from edgefuse_runtime.measuring.report import measured_on
from edgefuse_runtime.tasks.registry import figures_of
from edgefuse_runtime.tasks.task import Figure
from edgefuse_runtime.training.records import Report

_MEASURE = "exact_match"


class WritingOutcome(Struct, frozen=True, kw_only=True):
    """What a language model has learned, and what that took.

    Attributes:
        task: Name of the task.
        measure: What the model is compared by.
        before: Figure on the test split before fine-tuning.
        after: Figure on the test split after fine-tuning.
        parameters: Count of the model's parameters.
        trained_parameters: Count of the parameters that were trained.
        training_seconds: Seconds in the steps of fine-tuning.
        tokens_per_second: Tokens over that time.
        peak_rss_bytes: Peak resident memory of the process that trained.
        measured_on: A sentence that names the machine.
        threads: Threads of the engine.
    """

    task: str
    measure: Figure
    before: float
    after: float
    parameters: int
    trained_parameters: int
    training_seconds: float
    tokens_per_second: float
    peak_rss_bytes: int
    measured_on: str
    threads: int


def read_writing_outcome(folder: Path) -> WritingOutcome:
    """Read the figures of a demo.

    Args:
        folder: The demo's folder, after all of its commands.
    """
    report = msgspec.json.decode((folder / "run" / "report.json").read_bytes(), type=Report)
    before, after = (_evaluation(folder / f"{name}.json") for name in (BEFORE, AFTER))
    return WritingOutcome(
        task=report.task,
        measure=next(one for one in figures_of(report.task) if one.name == _MEASURE),
        before=before.figures[_MEASURE],
        after=after.figures[_MEASURE],
        parameters=report.parameters,
        trained_parameters=report.trained_parameters,
        training_seconds=report.training_seconds,
        tokens_per_second=report.tokens_per_second,
        peak_rss_bytes=round(report.peak_rss_mib * 2**20),
        measured_on=measured_on(
            report.machine,
            load_device(DEVICE),
            is_board=report.is_board,
            emulated=emulated(),
        ),
        threads=report.threads,
    )


def _evaluation(file: Path) -> Evaluation:
    return msgspec.json.decode(file.read_bytes(), type=Evaluation)
