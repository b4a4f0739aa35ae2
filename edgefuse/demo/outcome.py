"""The result of the walk-through with a fused model, read from what its commands wrote."""

from pathlib import Path

import msgspec
from msgspec import Struct

from edgefuse.demo.fusing import AFTER, BEFORE, Fusing
from edgefuse_runtime.inference.evaluation import Evaluation
from edgefuse_runtime.measuring.report import BenchReport
from edgefuse_runtime.tasks.registry import figures_of, primary_of
from edgefuse_runtime.tasks.task import Figure
from edgefuse_runtime.training.records import Report


class Figures(Struct, frozen=True, kw_only=True):
    """Figures of one model.

    Attributes:
        parameters: Count of the model's parameters.
        trained_parameters: Count of the parameters that were trained.
        figure: The task's first figure on the test split.
        training_seconds: Seconds in the steps of fine-tuning.
        step_ms: Median time of a step in milliseconds, from bench.
        peak_rss_bytes: Peak resident memory of a process that does nothing but train, from bench.
    """

    parameters: int
    trained_parameters: int
    figure: float
    training_seconds: float
    step_ms: float
    peak_rss_bytes: int


class Outcome(Struct, frozen=True, kw_only=True):
    """Figures of both models, and where they were measured.

    Attributes:
        before: Figures of the original model.
        after: Figures of the fused model.
        task: Name of the task.
        measure: What the models are compared by: the first of the task's figures that they have.
        onnx_figure: The task's first figure of the fused model, converted, in a bare ONNX Runtime
            session; None where that takes more than a session.
        measured_on: A sentence that names the machine.
        batch: Rows and tokens of the batches that bench timed.
        threads: Threads of the engine that bench timed.
    """

    before: Figures
    after: Figures
    task: str
    measure: Figure
    onnx_figure: float | None
    measured_on: str
    batch: tuple[int, int]
    threads: int


def read_outcome(folder: Path, subject: Fusing) -> Outcome:
    """Read the figures of a demo, and run the converted model.

    Args:
        folder: The demo's folder, after all of its commands.
        subject: What the models learned.
    """
    bench = _bench(folder, AFTER)
    return Outcome(
        before=_figures(folder, BEFORE),
        after=_figures(folder, AFTER),
        task=subject.task,
        measure=_measure(_evaluation(folder, AFTER)),
        onnx_figure=subject.bare and subject.bare(folder / "onnx-model", folder / "test.jsonl"),
        measured_on=bench.measured_on,
        batch=(bench.workload.batch_size, bench.workload.sequence_length),
        threads=bench.workload.threads,
    )


def _figures(folder: Path, name: str) -> Figures:
    bench = _bench(folder, name)
    run = msgspec.json.decode((folder / f"{name}-run" / "report.json").read_bytes(), type=Report)
    evaluation = _evaluation(folder, name)
    return Figures(
        parameters=run.parameters,
        trained_parameters=run.trained_parameters,
        figure=evaluation.figures[_measure(evaluation).name],
        training_seconds=run.training_seconds,
        step_ms=bench.step_ms.p50,
        peak_rss_bytes=bench.peak_rss_bytes,
    )


def _measure(evaluation: Evaluation) -> Figure:
    return primary_of(figures_of(evaluation.task), evaluation.figures)


def _evaluation(folder: Path, name: str) -> Evaluation:
    return msgspec.json.decode((folder / f"{name}-evaluation.json").read_bytes(), type=Evaluation)


def _bench(folder: Path, name: str) -> BenchReport:
    return msgspec.json.decode((folder / f"{name}-bench.json").read_bytes(), type=BenchReport)
