"""The records of fine-tuning: lines of metrics.jsonl, and report.json at the end."""

from typing import TypeAlias

from msgspec import Struct

from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.bundle.manifest import PredictedMemory


class StepRecord(Struct, frozen=True, kw_only=True, tag_field="event", tag="step"):
    """A line of metrics.jsonl for each step.

    Attributes:
        step: Count of steps done, this one included.
        epoch: Number of the epoch, from 1.
        loss: Mean loss of the batch before the update.
        learning_rate: Learning rate of the step.
        gradient_norm: Global norm before clipping.
        samples_per_second: Rows of the batch over the step's time.
        tokens_per_second: Tokens of the batch over the step's time, padding not counted.
        rss_mib: Resident memory after the step.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    samples_per_second: float
    tokens_per_second: float
    rss_mib: float


class EvaluationRecord(Struct, frozen=True, kw_only=True, tag_field="event", tag="evaluation"):
    """A line of metrics.jsonl for each evaluation, at the end of an epoch.

    Attributes:
        step: Count of steps done.
        epoch: Number of the epoch, from 1.
        figures: The task's figures of merit by name, the primary one first.
        is_best: Whether the epoch is the best so far.
    """

    step: int
    epoch: int
    figures: dict[str, float]
    is_best: bool


class NoticeRecord(Struct, frozen=True, kw_only=True, tag_field="event", tag="notice"):
    """A line of metrics.jsonl for what happened to the machine: throttling, or a pause.

    Attributes:
        step: Count of steps done.
        notice: A sentence.
    """

    step: int
    notice: str


MetricsRecord: TypeAlias = StepRecord | EvaluationRecord | NoticeRecord
"""A line of metrics.jsonl."""


class Report(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """report.json: what a finished run came to.

    Attributes:
        bundle_id: Identity of the bundle that was trained.
        task: Name of the task.
        steps: Count of steps done.
        best_epoch: Number of the best epoch, from 1; the last where there is no validation data.
        figures: The task's figures of merit in the best epoch by name, the primary one first;
            empty where there is no validation data.
        training_seconds: Time in steps.
        samples_per_second: Rows over that time.
        tokens_per_second: Tokens over that time, padding not counted.
        peak_rss_mib: The most that a process of the run held, evaluation included.
        predicted_memory: What export predicted, in bytes.
        parameters: Count of parameters of the model that was exported.
        trained_parameters: Count of those that were trained, and of what the way of tuning added.
        threads: Threads of the engine.
        rows_at_once: Rows whose gradients were computed at once.
        row_cache_mib: What the run kept on the disk of what frozen layers give, while it trained.
        highest_temperature: The highest that the machine's sensors reported between steps, in °C;
            None where it has none.
        rested_seconds: Time without a step, because the machine was hot.
        throttled: What held the processor back, a sentence each.
        machine: The machine that the run ran on.
        is_board: Whether that is the board that the bundle was exported for.
        engine: Name of the engine.
        engine_version: Version of the engine's package on that machine.
        edgefuse_version: Version of EdgeFuse on that machine.
    """

    bundle_id: str
    task: str
    steps: int
    best_epoch: int
    figures: dict[str, float]
    training_seconds: float
    samples_per_second: float
    tokens_per_second: float
    peak_rss_mib: float
    predicted_memory: PredictedMemory
    parameters: int
    trained_parameters: int
    threads: int
    rows_at_once: int
    row_cache_mib: float = 0.0
    highest_temperature: float | None = None
    rested_seconds: float = 0.0
    throttled: list[str] = []
    machine: DeviceProfile
    is_board: bool
    engine: str
    engine_version: str
    edgefuse_version: str
