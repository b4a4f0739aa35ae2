"""What fine-tuning says about itself: metrics.jsonl line by line, and report.json at the end."""

from msgspec import Struct

from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.bundle.manifest import EngineName, PredictedMemory


class StepRecord(Struct, frozen=True, kw_only=True, tag_field="event", tag="step"):
    """A line of metrics.jsonl for each step.

    Attributes:
        step: Steps done, this one included.
        epoch: From 1.
        loss: Mean cross-entropy of the batch before the update.
        learning_rate: Of this step.
        gradient_norm: Before clipping.
        samples_per_second: Texts of the batch over the step's time.
        tokens_per_second: Likewise, padding not counted.
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
        step: Steps done.
        epoch: From 1.
        accuracy: From 0 to 1.
        macro_f1: From 0 to 1.
        loss: Mean cross-entropy.
        is_best: Whether the epoch is the best so far.
    """

    step: int
    epoch: int
    accuracy: float
    macro_f1: float
    loss: float
    is_best: bool


class Report(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """report.json: what a finished run came to.

    Attributes:
        bundle_id: Of the bundle that was trained.
        steps: Steps done.
        best_epoch: From 1; the last where there is no validation data.
        accuracy: Of the best epoch; null where there is no validation data.
        macro_f1: Likewise.
        training_seconds: Time in steps.
        samples_per_second: Texts over that time.
        tokens_per_second: Tokens over that time, padding not counted.
        peak_rss_mib: The most that a process of the run held, evaluation included.
        predicted_memory: What export predicted, in bytes.
        parameters: Of the model that was exported.
        trained_parameters: Of those and what the way of tuning added, how many were trained.
        threads: Of the engine.
        machine: That it ran on.
        is_board: Whether that is the board that the bundle was exported for.
        engine: Name of the engine.
        engine_version: Version of its package here.
        edgefuse_version: Likewise.
    """

    bundle_id: str
    steps: int
    best_epoch: int
    accuracy: float | None
    macro_f1: float | None
    training_seconds: float
    samples_per_second: float
    tokens_per_second: float
    peak_rss_mib: float
    predicted_memory: PredictedMemory
    parameters: int
    trained_parameters: int
    threads: int
    machine: DeviceProfile
    is_board: bool
    engine: EngineName
    engine_version: str
    edgefuse_version: str
