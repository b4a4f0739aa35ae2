"""Fine-tuning: a bundle and labelled texts → a run."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgefuse_devices import __version__
from edgefuse_devices.probe import matches, probe
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.dataset import read_examples
from edgefuse_runtime.data.tokenization import TokenizedExamples, open_tokenizer, tokenize_examples
from edgefuse_runtime.engines.engine import open_engine
from edgefuse_runtime.files.output import check_space
from edgefuse_runtime.files.replace import write_json
from edgefuse_runtime.machine import memory
from edgefuse_runtime.machine.emulation import emulated
from edgefuse_runtime.machine.threads import default_threads
from edgefuse_runtime.session import onnxruntime
from edgefuse_runtime.training.checkpoint import Progress, load_checkpoint
from edgefuse_runtime.training.loop import Observer, Plan, TrainingLoop
from edgefuse_runtime.training.metrics_log import MetricsLog
from edgefuse_runtime.training.records import Report
from edgefuse_runtime.training.run import (
    BEST,
    LAST,
    METRICS,
    REPORT,
    RunRecord,
    TrainingSettings,
    begin_run,
    check_free,
    check_same,
    claimed,
    describe_data,
    read_json,
    read_record,
    relative_to_run,
)

_MIB = 2**20
_SLACK = 16 * _MIB
_COPIES = 3 + 3 + 1
"""Parameters and two moments, twice while a checkpoint replaces the one before; and the best."""


def finetune(
    bundle: Bundle,
    run: Path,
    *,
    train: Path,
    valid: Path | None = None,
    settings: TrainingSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observer: Observer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train a bundle on labelled texts.

    Everything that can be refused is refused before the first file is written.

    Args:
        bundle: An opened bundle.
        run: The directory to fill.
        train: JSON lines with `text` and `label`.
        valid: Likewise, evaluated after every epoch; without it the last epoch is the best.
        settings: How to train; None to resume as the run began, and for a new run the defaults.
        resume: Go on from the last checkpoint of the run that is there, and end with the weights
            of a run that was never interrupted, bit for bit.
        overwrite: Replace the run that is there.
        observer: Told of every step, evaluation and checkpoint.
        stop: Asked after every step; True saves and raises `Interrupted`.

    Returns:
        What report.json holds; that of a run which is finished already is read again.

    Raises:
        DataError: A data file cannot be used.
        OutputError: The directory is not empty, or the disk is too small.
        RunError: The run to resume was made from something else, another process is training in
            it, or training diverged.
        Interrupted: `stop` said so; everything up to the last step is saved.
    """
    stored = read_record(run) if resume else None
    if not resume:
        check_free(run, overwrite=overwrite)
    plan = _plan(bundle, run, train, valid, settings=_settings(settings, stored))
    record = _record(plan, train, valid)
    if stored:
        check_same(stored, record)
        if (run / REPORT).exists():
            return read_json(run / REPORT, Report)
    there = sum(path.stat().st_size for path in (run / LAST, run / BEST) if path.exists())
    most = 4 * bundle.manifest.tuning.trained_parameters * _COPIES + _SLACK
    check_space(run, most - there)
    engine = open_engine(
        bundle,
        threads=plan.threads,
        token_ids=plan.train.token_ids,
        seed=plan.settings.seed,
    )
    with claimed(run):
        progress = Progress()
        if not stored:
            begin_run(run, record)
        elif (run / LAST).exists():
            state, progress = load_checkpoint(run / LAST, bundle_id=bundle.id)
            engine.load_state(state)
            del state  # a mapping would keep the file on the disk after it is replaced
        if observer:
            observer.on_start(progress.step, plan.steps)
        with MetricsLog(run / METRICS, progress.metrics_bytes) as log:
            loop = TrainingLoop(plan, engine, progress, log=log, observer=observer, stop=stop)
            loop.run()
        report = _report(plan, loop.progress)
        write_json(run / REPORT, report)
    return report


def _settings(given: TrainingSettings | None, stored: RunRecord | None) -> TrainingSettings:
    """Those given; what they leave open is as the run began."""
    if stored is None:
        return given or TrainingSettings()
    if given is None:
        return stored.settings
    names = [name for name in given.__struct_fields__ if getattr(given, name) is None]
    return msgspec.structs.replace(given, **{n: getattr(stored.settings, n) for n in names})


def _plan(
    bundle: Bundle,
    run: Path,
    train: Path,
    valid: Path | None,
    *,
    settings: TrainingSettings,
) -> Plan:
    manifest = bundle.manifest
    tokenizer = open_tokenizer(bundle)

    def read(path: Path) -> TokenizedExamples:
        return tokenize_examples(tokenizer, read_examples(path, manifest.labels))

    return Plan(
        bundle=bundle,
        run=run,
        train=read(train),
        valid=read(valid) if valid else None,
        settings=settings,
        learning_rate=settings.learning_rate or manifest.tuning.learning_rate,
        batch_size=settings.batch_size or manifest.batch_size,
        threads=settings.threads or default_threads(manifest.device),
    )


def _record(plan: Plan, train: Path, valid: Path | None) -> RunRecord:
    return RunRecord(
        bundle_path=str(plan.bundle.path.absolute()),
        bundle_relative_path=relative_to_run(plan.bundle.path, plan.run),
        bundle_id=plan.bundle.id,
        train=describe_data(train),
        valid=describe_data(valid) if valid else None,
        settings=msgspec.structs.replace(
            plan.settings,
            learning_rate=plan.learning_rate,
            batch_size=plan.batch_size,
            threads=plan.threads,
        ),
        edgefuse_version=__version__,
    )


def _report(plan: Plan, progress: Progress) -> Report:
    manifest, best, host = plan.bundle.manifest, progress.best, probe()
    assert best is not None
    return Report(
        bundle_id=plan.bundle.id,
        steps=progress.step,
        best_epoch=best.epoch,
        accuracy=best.accuracy,
        macro_f1=best.macro_f1,
        training_seconds=progress.seconds,
        samples_per_second=progress.rows / progress.seconds,
        tokens_per_second=progress.tokens / progress.seconds,
        peak_rss_mib=max(progress.peak_resident, memory.peak_resident()) / _MIB,
        predicted_memory=manifest.predicted_memory,
        parameters=manifest.model.parameters,
        trained_parameters=manifest.tuning.trained_parameters,
        threads=plan.threads,
        machine=host,
        is_board=matches(manifest.device, host) and not emulated(),
        engine=manifest.engine,
        engine_version=onnxruntime().__version__,
        edgefuse_version=__version__,
    )
