"""Fine-tuning: a bundle and data → a run."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec

from edgefuse_devices import __version__
from edgefuse_devices.errors import OutputError, RunError
from edgefuse_devices.probe import matches, probe
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.data.batching import Dataset, batches_per_epoch
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.engines.row_cache import RowCache
from edgefuse_runtime.files.output import check_space, disk_of, free_space
from edgefuse_runtime.files.replace import write_json
from edgefuse_runtime.machine import memory
from edgefuse_runtime.machine.emulation import emulated
from edgefuse_runtime.machine.threads import threads_for
from edgefuse_runtime.optimizers.optimizer import state_elements
from edgefuse_runtime.training.care import check_sensors
from edgefuse_runtime.training.checkpoint import Progress
from edgefuse_runtime.training.course import Course, check_accumulation
from edgefuse_runtime.training.loop import Job, Observer, TrainingLoop
from edgefuse_runtime.training.memory_plan import MemoryPlan, plan_memory, usual_budget
from edgefuse_runtime.training.metrics_log import MetricsLog
from edgefuse_runtime.training.records import Report
from edgefuse_runtime.training.resume import Say, finished, newest
from edgefuse_runtime.training.run import (
    BEST,
    LAST,
    METRICS,
    PREVIOUS,
    REPORT,
    Change,
    RunRecord,
    TrainingSettings,
    begin_run,
    check_free,
    check_same,
    claimed,
    describe_data,
    next_rate,
    read_record,
    relative_to_run,
    write_record,
)

_MIB = 2**20
_SLACK = 16 * _MIB


def finetune(
    bundle: Bundle,
    run: Path,
    *,
    train: Path,
    valid: Path | None = None,
    settings: TrainingSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    budget: int | None = None,
    cache: int | None = None,
    max_temperature: float | None = None,
    observer: Observer | None = None,
    on_plan: Callable[[MemoryPlan], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train a bundle on rows of its task.

    Everything that can be refused is refused before the first file is written.

    Args:
        bundle: An opened bundle.
        run: The directory to fill.
        train: Training data.
        valid: Validation data, evaluated after every epoch; without any the last epoch is the best.
        settings: How to train; None to resume as the run began, and for a new run the defaults.
        resume: Whether to go on from the last checkpoint of the run that is there, and end with the
            weights of a run that was never interrupted, bit for bit. Where that checkpoint is lost,
            from the one before, or from the beginning. A lower learning rate holds from there on.
        overwrite: Whether to replace the run that is there.
        budget: Bytes that the process may hold, mapped files not counted; None for what the board's
            profile and this machine have free. It decides how many rows are computed at once, and
            which layers' insides are kept.
        cache: Bytes that the run may take on the disk while it trains, for what frozen layers give
            for each row, which is then computed once; None for half of what is free.
        max_temperature: Temperature in °C that the machine's sensors shall not report: steps become
            slower near it, and pause at it.
        observer: Receiver of every step, evaluation and checkpoint.
        on_plan: Called when it is decided how steps fit into memory.
        stop: Called after every step; True saves and raises `Interrupted`.

    Returns:
        The content of report.json; of a run that is finished already, it is read again.

    Raises:
        DataError: A data file cannot be used.
        OutputError: The directory is not empty, or the disk is too small, for the cache too.
        RunError: The run to resume was made from something else, another process is training in
            it, the machine reports no temperature to hold down, batches are smaller than the task
            learns from, a row does not fit into the budget, or training diverged.
        Interrupted: `stop` gave True, or a battery is low; everything up to the last step is saved.
    """
    stored = read_record(run) if resume else None
    if not resume:
        check_free(run, overwrite=overwrite)
    if max_temperature is not None:
        check_sensors()
    filled = _fill(_settings(settings, stored), bundle)
    _check_batch(filled, bundle)
    dataset = bundle.read(train, folder=disk_of(run))
    held_out = bundle.read(valid, folder=disk_of(run)) if valid else None
    if filled.rows_at_once is None or budget is not None:
        plan = _plan(bundle, dataset, filled, budget=budget)
        on_plan(plan)
        filled = msgspec.structs.replace(
            filled, rows_at_once=plan.rows_at_once, kept_layers=plan.kept_layers
        )
    assert filled.learning_rate
    rate = filled.learning_rate
    if stored:
        rate = next_rate(stored, rate)
        filled = msgspec.structs.replace(filled, learning_rate=stored.settings.learning_rate)
    job = _job(bundle, run, dataset, held_out, settings=filled, rate=rate, hottest=max_temperature)
    memory.give_back()  # what the tokenizer took
    record = _record(job, train, valid, settings=filled)
    say = observer.on_notice if observer else _ignore
    if stored:
        check_same(stored, record)
        if report := finished(run, bundle_id=bundle.id, say=say):
            return report
    kept = (run / LAST, run / PREVIOUS, run / BEST)
    there = sum(path.stat().st_size for path in kept if path.exists())
    needed = _most_bytes(bundle) - there
    check_space(run, needed)
    rows = _row_cache(bundle, run, filled, cache, needed=needed)
    engine = open_engine(
        bundle,
        threads=job.threads,
        token_ids=job.course.dataset.token_ids,
        seed=job.course.seed,
        accumulates=job.course.accumulates,
        kept_layers=filled.kept_layers or 0,
        row_cache=rows,
    )
    with claimed(run), rows or nullcontext():
        if stored:
            progress = _go_on(engine, run, stored, rate=rate, say=say)
        else:
            begin_run(run, record)
            progress = Progress()
        if observer:
            observer.on_start(progress.step, job.course.steps)
        with MetricsLog(run / METRICS, progress.metrics_bytes) as log:
            if log.lost:
                say(f"{run / METRICS} was cut: its last {log.lost} bytes are lost")
            loop = TrainingLoop(job, engine, progress, log=log, observer=observer, stop=stop)
            loop.run()
        report = _report(job, loop.progress, cached=rows.bytes if rows else 0)
        write_json(run / REPORT, report, private=True)
    return report


def _go_on(engine: Engine, run: Path, stored: RunRecord, *, rate: float, say: Say) -> Progress:
    """Give the engine the state that a run goes on from, and record a rate that is another now."""
    progress = Progress()
    if found := newest(run, bundle_id=stored.bundle_id, say=say):
        state, progress = found
        engine.load_state(state)
        del state, found  # a mapping would keep the file on the disk after it is replaced
    if rate != stored.learning_rate:
        change = Change(step=progress.step, learning_rate=rate)
        write_record(run, msgspec.structs.replace(stored, changes=[*stored.changes, change]))
    return progress


def _ignore(sentence: str) -> None:
    """Nobody watches the run."""


def _row_cache(
    bundle: Bundle, run: Path, settings: TrainingSettings, given: int | None, *, needed: int
) -> RowCache | None:
    """Where rows are kept; None where they are seen once, or nothing of them stays the same."""
    if given == 0 or settings.epochs == 1 or not bundle.manifest.engine.keeps_rows:
        return None
    free = max(0, free_space(run) - needed)
    if given is not None and given > free:
        raise OutputError(
            f"--cache {given / 1e6:,.0f} MB is more than the {free / 1e6:,.0f} MB that are free on "
            f"the disk of {run}, beside what the run needs",
            "Give less, or 0 to keep nothing of rows",
        )
    return RowCache(run, budget=free // 2 if given is None else given)


def _most_bytes(bundle: Bundle) -> int:
    """What a run's checkpoints take at the most.

    They are the parameters and the optimizer's states, twice while a checkpoint replaces the one
    before, and the best parameters.
    """
    manifest = bundle.manifest
    trained = manifest.tuning.trained_parameters
    states = state_elements(manifest.optimizer, (p.shape for p in manifest.parameters))
    return 4 * (2 * (trained + states) + trained) + _SLACK


def _settings(given: TrainingSettings | None, stored: RunRecord | None) -> TrainingSettings:
    """Those given; what they leave open is as the run began."""
    if stored is None:
        return given or TrainingSettings()
    if given is None:
        return stored.settings
    names = [name for name in given.__struct_fields__ if getattr(given, name) is None]
    return msgspec.structs.replace(given, **{n: getattr(stored.settings, n) for n in names})


def _fill(settings: TrainingSettings, bundle: Bundle) -> TrainingSettings:
    """Settings with learning rate, batch size and threads that suit the bundle and the machine."""
    manifest = bundle.manifest
    return msgspec.structs.replace(
        settings,
        learning_rate=settings.learning_rate or manifest.tuning.learning_rate,
        batch_size=settings.batch_size or manifest.batch_size,
        threads=threads_for(manifest.device, settings.threads),
    )


def _check_batch(settings: TrainingSettings, bundle: Bundle) -> None:
    least = bundle.manifest.task.smallest_batch
    if settings.batch_size is not None and settings.batch_size < least:
        raise RunError(
            f"batch_size is {settings.batch_size}, and {bundle.manifest.task.summary} learns "
            f"nothing from fewer than {least} rows at once",
            f"Give --batch-size {least} or more",
        )


def _plan(
    bundle: Bundle, dataset: Dataset, settings: TrainingSettings, *, budget: int | None
) -> MemoryPlan:
    """What a budget allows; without one, what board and machine have free, or the least."""
    assert settings.batch_size
    held = memory.anonymous()
    return plan_memory(
        bundle,
        dataset,
        batch_size=settings.batch_size,
        in_parts=settings.gradient_accumulation_steps > 1,
        budget=usual_budget(bundle.manifest.device, held=held) if budget is None else budget,
        held=held,
        refuse=budget is not None,
    )


def _job(
    bundle: Bundle,
    run: Path,
    dataset: Dataset,
    valid: Dataset | None,
    *,
    settings: TrainingSettings,
    rate: float,
    hottest: float | None,
) -> Job:
    assert settings.batch_size
    assert settings.rows_at_once
    assert settings.threads
    rows = settings.batch_size * settings.gradient_accumulation_steps
    steps_per_epoch = batches_per_epoch(len(dataset), rows)
    if settings.rows_at_once < rows:
        check_accumulation(bundle, dataset)
    return Job(
        bundle=bundle,
        run=run,
        course=Course(
            bundle=bundle,
            dataset=dataset,
            batch_size=settings.batch_size,
            rows_at_once=settings.rows_at_once,
            parts=settings.gradient_accumulation_steps,
            steps=settings.epochs * steps_per_epoch,
            peak=rate,
            warmup_ratio=settings.warmup_ratio,
            seed=settings.seed,
        ),
        valid=valid,
        save_every=settings.save_every,
        threads=settings.threads,
        max_temperature=hottest,
    )


def _record(job: Job, train: Path, valid: Path | None, *, settings: TrainingSettings) -> RunRecord:
    return RunRecord(
        bundle_path=str(job.bundle.path.absolute()),
        bundle_relative_path=relative_to_run(job.bundle.path, job.run),
        bundle_id=job.bundle.id,
        train=describe_data(train),
        valid=describe_data(valid) if valid else None,
        settings=settings,
        edgefuse_version=__version__,
    )


def _report(job: Job, progress: Progress, *, cached: int) -> Report:
    manifest, best, host = job.bundle.manifest, progress.best, probe()
    assert best is not None
    return Report(
        bundle_id=job.bundle.id,
        task=manifest.task.name,
        steps=progress.step,
        best_epoch=best.epoch,
        figures=best.figures,
        training_seconds=progress.seconds,
        samples_per_second=progress.rows / progress.seconds,
        tokens_per_second=progress.tokens / progress.seconds,
        peak_rss_mib=max(progress.peak_resident, memory.peak_resident()) / _MIB,
        predicted_memory=manifest.predicted_memory,
        parameters=manifest.model.parameters,
        trained_parameters=manifest.tuning.trained_parameters,
        threads=job.threads,
        rows_at_once=job.course.rows_at_once,
        row_cache_mib=cached / _MIB,
        highest_temperature=progress.strain.highest_temperature or None,
        rested_seconds=progress.strain.rested,
        throttled=progress.strain.throttled,
        machine=host,
        is_board=matches(manifest.device, host) and not emulated(),
        engine=manifest.engine.name,
        engine_version=manifest.engine.installed(),
        edgefuse_version=__version__,
    )
