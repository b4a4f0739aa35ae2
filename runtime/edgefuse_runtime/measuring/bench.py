"""Measuring what it costs to train a bundle on the machine at hand."""

import platform
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from edgefuse_devices import __version__, errors
from edgefuse_devices.errors import EdgeFuseError, InputError, InternalError
from edgefuse_devices.probe import matches, probe
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.machine import sensors
from edgefuse_runtime.machine.emulation import emulated
from edgefuse_runtime.machine.threads import threads_for
from edgefuse_runtime.measuring import process as bench_process
from edgefuse_runtime.measuring.doubts import doubts
from edgefuse_runtime.measuring.process import Failed, Finished, Message, Ready, Stepped, Workload
from edgefuse_runtime.measuring.report import BenchReport, Latency, measured_on
from edgefuse_runtime.progress import OnProgress, silent

_PERCENTILES = (50, 90, 99)


def plan_workload(
    bundle: Bundle,
    *,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    threads: int | None = None,
    warmup: int = 5,
    steps: int = 50,
) -> Workload:
    """Fill in what is not given: the bundle's shape, the board's threads.

    Raises:
        InputError: The sequences are longer than the bundle's, or a count is too small.
    """
    manifest = bundle.manifest
    length = manifest.sequence_length if sequence_length is None else sequence_length
    if length > manifest.sequence_length:
        raise InputError(
            f"--sequence-length {length} is above the bundle's {manifest.sequence_length}",
            "Give a smaller one, or export the model with a larger one",
        )
    workload = Workload(
        batch_size=manifest.batch_size if batch_size is None else batch_size,
        sequence_length=length,
        threads=threads_for(manifest.device, threads),
        warmup=warmup,
        steps=steps,
    )
    smallest = {"batch_size": 1, "sequence_length": 2, "threads": 1, "steps": 1, "warmup": 0}
    for name, least in smallest.items():
        if getattr(workload, name) < least:
            raise InputError(f"{name} is {getattr(workload, name)}", f"Give {least} or more")
    return workload


def bench(bundle: Bundle, workload: Workload, *, on_progress: OnProgress = silent) -> BenchReport:
    """Measure training in a process of its own.

    Args:
        bundle: An opened bundle.
        workload: What to measure, as `plan_workload` fills it in.
        on_progress: Observer, called after every step, warm-up included.

    Raises:
        EdgeFuseError: The engine is not installed, or the process ended early.
    """
    emulation = emulated()
    # An emulated Python cannot start another where the kernel does not know about the emulator.
    measure = bench_process.measure if emulation else _in_process_of_its_own
    throttling, before = sensors.Throttling(), sensors.temperature()
    with closing(measure(bundle.path, workload)) as messages:
        ready, seconds, peak = _collect(messages, workload, on_progress)
    after, throttled = sensors.temperature(), throttling.now()
    counted = seconds[workload.warmup :]
    p50, p90, p99 = (1000 * np.percentile(counted, _PERCENTILES)).tolist()
    rows = workload.batch_size * workload.steps
    manifest, machine = bundle.manifest, probe()
    is_board = matches(manifest.device, machine) and not emulation
    return BenchReport(
        measured_on=measured_on(machine, manifest.device, is_board=is_board, emulated=emulation),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle_id=bundle.id,
        model=manifest.model,
        tuning=manifest.tuning,
        board=manifest.device,
        machine=machine,
        is_board=is_board,
        emulated=emulation,
        workload=workload,
        vocabulary=ready.vocabulary,
        distinct_tokens=ready.distinct_tokens,
        load_seconds=ready.load_seconds,
        first_step_ms=1000 * seconds[0],
        step_ms=Latency(p50=p50, p90=p90, p99=p99),
        samples_per_second=rows / sum(counted),
        tokens_per_second=rows * ready.tokens_per_row / sum(counted),
        peak_rss_bytes=peak,
        base_rss_bytes=ready.base_rss_bytes,
        parameter_bytes=ready.trained_bytes,
        gradient_bytes=ready.trained_bytes,
        optimizer_bytes=ready.optimizer_bytes,
        frozen_bytes=manifest.predicted_memory.frozen,
        predicted_memory=manifest.predicted_memory,
        predicted_shape=(manifest.batch_size, manifest.sequence_length),
        temperatures=None if before is None or after is None else (before, after),
        doubts=doubts(counted, throttled),
        engine=manifest.engine.name,
        engine_version=ready.engine_version,
        python_version=platform.python_version(),
        edgefuse_version=__version__,
    )


def _collect(
    messages: Iterable[Message], workload: Workload, on_progress: OnProgress
) -> tuple[Ready, list[float], int]:
    """Ready, the seconds of every step, and peak memory."""
    ready, finished = None, None
    seconds: list[float] = []
    for message in messages:
        match message:
            case Ready():
                ready = message
            case Stepped():
                seconds.append(message.seconds)
                on_progress("Measuring", len(seconds), workload.warmup + workload.steps)
            case Finished():
                finished = message
            case Failed():
                raise getattr(errors, message.kind)(message.problem, message.hint)
    if ready is None or finished is None:
        raise InternalError("the measured process ended without a result")
    return ready, seconds, finished.peak_rss_bytes


def _in_process_of_its_own(path: Path, workload: Workload) -> Generator[Message, None, None]:
    argument = msgspec.json.encode(workload).decode()
    # -P, because no module of the folder that the user is in shall take a library's place.
    command = [sys.executable, "-P", "-m", bench_process.__name__, str(path), argument]
    decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
        assert process.stdout is not None
        try:
            yield from map(decoder.decode, process.stdout)
            process.wait()
        finally:
            process.kill()
    if process.returncode == -signal.SIGKILL:
        raise EdgeFuseError(
            "the measured process was killed, as Linux does when memory is short",
            "Measure smaller batches with --batch-size, or close other programs",
        )
    if process.returncode:
        raise InternalError(f"the measured process ended with {process.returncode}")
