"""What `bench` found out, as a file that travels: versioned, and honest about its machine."""

from msgspec import Struct

from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.bundle.manifest import ModelInfo, PredictedMemory, Tuning
from edgefuse_runtime.measuring.process import Workload

SCHEMA_VERSION = 2
"""2: the first step, temperatures, doubts."""


class Latency(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Percentiles of a step's time in milliseconds, linearly interpolated."""

    p50: float
    p90: float
    p99: float


class BenchReport(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="report", tag="bench"
):
    """Latency, throughput and memory of training a bundle on a machine.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the EdgeFuse that wrote the report.
        measured_on: Sentence that names the machine, and whether it is the bundle's board.
        date: Time in ISO 8601, UTC.
        bundle_id: Identity of the bundle.
        model: Origin of the model.
        tuning: What trains.
        board: The board that the bundle was exported for.
        machine: The machine that was measured.
        is_board: Whether that is the board, and no emulation of one.
        emulated: Whether another processor played this one; times are then the emulator's.
        workload: Batches, steps and threads.
        vocabulary: Count of tokens that the tokenizer has.
        distinct_tokens: Count of tokens that occurred: embeddings of others cost nothing.
        load_seconds: Time from the bundle's directory, digests checked and files in the page cache,
            to the first step; imports not counted.
        first_step_ms: Time of the very first step in milliseconds; None of schema 1.
        step_ms: Latency of a step: forward, backward and optimizer, after warm-up.
        samples_per_second: Rows over the time of the steps.
        tokens_per_second: Tokens over that time.
        peak_rss_bytes: The most that was resident in a process that loads and trains only.
        base_rss_bytes: Part of that which Python and its libraries take.
        parameter_bytes: Bytes of parameters that train.
        gradient_bytes: Bytes of their gradients.
        optimizer_bytes: Bytes of the optimizer's states.
        frozen_bytes: Bytes of parameters that do not train.
        predicted_memory: What export predicted, for `predicted_shape`.
        predicted_shape: (batch, sequence) of the bundle.
        temperatures: What the machine's hottest sensor reported before and after, in °C; None where
            it has none.
        doubts: Sentences on what disturbed the measurement, which is then not to be compared.
        engine: Name of the engine.
        engine_version: Version of the engine's package.
        python_version: Version of the interpreter.
        edgefuse_version: Version of the EdgeFuse that measured.
    """

    schema_version: int = SCHEMA_VERSION
    measured_on: str
    date: str
    bundle_id: str
    model: ModelInfo
    tuning: Tuning
    board: DeviceProfile
    machine: DeviceProfile
    is_board: bool
    emulated: bool
    workload: Workload
    vocabulary: int
    distinct_tokens: int
    load_seconds: float
    first_step_ms: float | None = None
    step_ms: Latency
    samples_per_second: float
    tokens_per_second: float
    peak_rss_bytes: int
    base_rss_bytes: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    frozen_bytes: int
    predicted_memory: PredictedMemory
    predicted_shape: tuple[int, int]
    temperatures: tuple[float, float] | None = None
    doubts: list[str] = []
    engine: str
    engine_version: str
    python_version: str
    edgefuse_version: str


def measured_on(
    machine: DeviceProfile, board: DeviceProfile, *, is_board: bool, emulated: bool
) -> str:
    """Say in a sentence whose speed was measured."""
    if emulated:
        return (
            f"Measured under CPU emulation, which says nothing about the speed or the memory "
            f"of the {board.title} that the bundle is for."
        )
    if is_board:
        return f"Measured on the board that the bundle is for: {machine.title}."
    return f"Measured on {machine.title}, not on the {board.title} that the bundle is for."


__all__ = ["SCHEMA_VERSION", "BenchReport", "Latency", "measured_on"]
