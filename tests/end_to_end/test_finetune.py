"""A run trains, evaluates, keeps its best, and survives whatever ends it."""

import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from edgefuse_devices.errors import InputError, Interrupted, OutputError, RunError
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle
from edgefuse_runtime.engines.engine import Step
from edgefuse_runtime.training import finetune as finetune_module
from edgefuse_runtime.training.checkpoint import load_checkpoint, save_checkpoint
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.records import EvaluationRecord, StepRecord
from edgefuse_runtime.training.run import (
    Change,
    TrainingSettings,
    claimed,
    open_run_bundle,
    read_record,
)
from tests.tiny_bundle import FakeEngine, make_bundle, write_data

ROWS, EPOCHS, STEPS_PER_EPOCH = 42, 3, 11
SETTINGS = TrainingSettings(epochs=EPOCHS, learning_rate=0.3, save_every=4, threads=1)


class Case(NamedTuple):
    bundle: Bundle
    train: Path
    valid: Path


class DiskUsage(NamedTuple):
    free: int


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    directory = tmp_path_factory.mktemp("case")
    return Case(
        make_bundle(directory / "bundle"),
        write_data(directory / "train.jsonl", ROWS),
        write_data(directory / "valid.jsonl", 20, seed=1),
    )


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch):
    monkeypatch.setattr(finetune_module, "open_engine", FakeEngine)


def train(case, run, settings=SETTINGS, **options):
    options = {"train": case.train, "valid": case.valid, **options}
    return finetune(case.bundle, run, settings=settings, **options)


class StopAfter:
    """Asks to stop once so many steps are done: an observer, and the `stop` that it feeds."""

    def __init__(self, steps):
        self.steps, self.done = steps, 0

    def on_step(self, record):
        self.done = record.step

    def __call__(self):
        return self.done >= self.steps

    on_start = on_evaluation = on_save = on_notice = lambda *_: None


class StopInEvaluation(StopAfter):
    """Asks only once the checkpoint at the end of the epoch is on the disk."""

    def __init__(self):
        super().__init__(11)
        self.saved = False

    def on_save(self, path, step):
        self.saved = step == self.steps

    def __call__(self):
        return self.saved


def interrupt(case, run, stop, **options):
    with pytest.raises(Interrupted) as caught:
        train(case, run, observer=stop, stop=stop, **options)
    return caught.value


def comparable(run):
    """The lines of metrics.jsonl without what depends on the clock."""
    timeless = {"samples_per_second": 0.0, "tokens_per_second": 0.0, "rss_mib": 0.0}
    return [
        msgspec.structs.replace(line, **timeless) if isinstance(line, StepRecord) else line
        for line in read_metrics(run / "metrics.jsonl")
    ]


def assert_same_run(left, right):
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_file(left / name), load_file(right / name)
        assert a.keys() == b.keys()
        assert all(a[key].tobytes() == b[key].tobytes() for key in a)
    assert comparable(left) == comparable(right)


@pytest.fixture(scope="module")
def whole_run(case, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_module, "open_engine", FakeEngine)
        run = tmp_path_factory.mktemp("whole") / "run"
        train(case, run)
        return run


def test_a_run_learns_and_reports(case, tmp_path):
    report = train(case, tmp_path / "run", msgspec.structs.replace(SETTINGS, epochs=10))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    steps = [line for line in lines if isinstance(line, StepRecord)]
    evaluations = [line for line in lines if isinstance(line, EvaluationRecord)]
    assert [line.step for line in steps] == list(range(1, 10 * STEPS_PER_EPOCH + 1))
    assert [line.epoch for line in evaluations] == list(range(1, 11))
    assert steps[-1].loss < steps[0].loss
    best = max(evaluations, key=lambda line: line.figures["accuracy"])
    assert report.figures == best.figures
    assert report.figures["accuracy"] > 0.8
    assert report.best_epoch == best.epoch
    assert report.steps == len(steps)
    assert report.peak_rss_mib >= steps[-1].rss_mib > 0
    assert msgspec.json.decode((tmp_path / "run/report.json").read_bytes())["threads"] == 1


def test_without_validation_data_the_last_epoch_is_the_best(case, tmp_path):
    report = train(case, tmp_path / "run", valid=None)
    assert (report.figures, report.best_epoch) == ({}, EPOCHS)
    best = load_file(tmp_path / "run/best.safetensors")
    last = load_file(tmp_path / "run/last.safetensors")
    assert all(np.array_equal(best[name], last[name]) for name in best)


def test_the_observer_sees_every_step_evaluation_and_checkpoint(case, tmp_path):
    class Recorder:
        def __init__(self):
            self.steps, self.evaluations, self.saves, self.started = 0, 0, [], None

        def on_start(self, step, steps):
            self.started = (step, steps)

        def on_step(self, record):
            self.steps += 1

        def on_evaluation(self, record):
            self.evaluations += 1

        def on_save(self, path, step):
            self.saves.append((path.name, step))

        def on_notice(self, sentence):
            raise AssertionError(sentence)

    seen = Recorder()
    train(case, tmp_path / "run", observer=seen)
    assert (seen.started, seen.steps, seen.evaluations) == ((0, 33), 33, 3)
    last = [step for name, step in seen.saves if name == "last.safetensors"]
    assert last == [4, 8, 11, 12, 16, 20, 22, 24, 28, 32, 33]


@pytest.mark.parametrize("steps", [1, 5, 11, 12, 22, 32, 33])
def test_an_interrupted_run_ends_bit_for_bit_like_a_whole_one(case, whole_run, tmp_path, steps):
    run = tmp_path / "run"
    interrupted = interrupt(case, run, StopAfter(steps))
    assert f"after step {steps} of 33" in interrupted.problem
    assert interrupted.hint == f"Go on with: edgefuse finetune {case.bundle.path} {run} --resume"
    train(case, run, resume=True)
    assert_same_run(run, whole_run)


def test_an_interrupt_during_evaluation_loses_nothing(case, whole_run, tmp_path):
    run = tmp_path / "run"
    assert "after step 11 of 33" in interrupt(case, run, StopInEvaluation()).problem
    assert not (run / "best.safetensors").exists()
    train(case, run, resume=True)
    assert_same_run(run, whole_run)


def test_a_run_reports_the_peak_of_all_its_processes(case, tmp_path):
    run, last, tebibyte = tmp_path / "run", tmp_path / "run" / "last.safetensors", 2**40
    interrupt(case, run, StopAfter(5))
    tensors, progress = load_checkpoint(last, bundle_id=case.bundle.id)
    assert 0 < progress.peak_resident < tebibyte
    more = msgspec.structs.replace(progress, peak_resident=tebibyte)
    save_checkpoint(last, tensors, more, bundle_id=case.bundle.id)
    assert train(case, run, resume=True).peak_rss_mib == 2**20


def test_a_run_that_died_before_its_first_checkpoint_starts_again(case, whole_run, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(case, run, stop=lambda: 1 / 0)
    assert not (run / "last.safetensors").exists()
    train(case, run, resume=True)
    assert_same_run(run, whole_run)


KILLED = """
import sys, time
from pathlib import Path
from edgefuse_runtime.training import finetune as module
from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.training.run import TrainingSettings, open_run_bundle, read_record
from tests.tiny_bundle import FakeEngine

module.open_engine = FakeEngine
bundle, run, train, valid = map(Path, sys.argv[1:])
settings = TrainingSettings(epochs=3, learning_rate=0.3, save_every=4, threads=1)

def stop():
    time.sleep(0.02)
    return False

module.finetune(open_bundle(bundle), run, train=train, valid=valid, settings=settings, stop=stop)
"""


def test_a_killed_run_resumes_bit_for_bit(case, whole_run, tmp_path):
    run = tmp_path / "run"
    arguments = [case.bundle.path, run, case.train, case.valid]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *map(str, arguments)])
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 15:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (run / "report.json").exists()
    train(case, run, resume=True)
    assert_same_run(run, whole_run)


def test_a_finished_run_is_not_trained_again(case, tmp_path):
    report = train(case, tmp_path / "run")
    assert train(case, tmp_path / "run", resume=True) == report


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"learning_rate": 0.4}, "learning rate is 0.3, and a run goes on with a lower one only"),
        ({"epochs": 4}, "began with epochs 3, not 4"),
        ({"batch_size": 8}, "began with batch_size 4, not 8"),
    ],
)
def test_resume_with_other_settings_says_which(case, tmp_path, change, sentence):
    train(case, tmp_path / "run")
    with pytest.raises(RunError, match=sentence):
        train(case, tmp_path / "run", msgspec.structs.replace(SETTINGS, **change), resume=True)


def test_resume_with_other_data_says_which(case, tmp_path):
    train(case, tmp_path / "run")
    other = write_data(tmp_path / "other.jsonl", 30, seed=5)
    with pytest.raises(RunError, match=r"train data is not the same: it was .*train\.jsonl"):
        train(case, tmp_path / "run", train=other, resume=True)
    with pytest.raises(RunError, match="valid data is not the same"):
        train(case, tmp_path / "run", valid=None, resume=True)


def test_resume_with_another_bundle_is_refused(case, tmp_path):
    interrupt(case, tmp_path / "run", StopAfter(3))
    other = make_bundle(tmp_path / "other", seed=9)
    with pytest.raises(RunError, match="another bundle"):
        train(case._replace(bundle=other), tmp_path / "run", resume=True)
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace(case.bundle.id, other.id))
    with pytest.raises(RunError, match=r"last\.safetensors is a checkpoint of another bundle"):
        train(case._replace(bundle=other), tmp_path / "run", resume=True)


def test_resume_of_no_run_is_refused(case, tmp_path):
    with pytest.raises(RunError, match="is no run"):
        train(case, tmp_path / "run", resume=True)


def test_a_folder_that_is_not_empty_is_left_alone(case, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="other files, no run"):
            train(case, run, overwrite=overwrite)
    assert (run / "thesis.tex").read_text() == "precious"


def test_a_run_is_replaced_only_on_demand(case, whole_run, tmp_path):
    run = tmp_path / "run"
    train(case, run, msgspec.structs.replace(SETTINGS, epochs=1))
    with pytest.raises(OutputError, match="holds a run already"):
        train(case, run)
    train(case, run, overwrite=True)
    assert_same_run(run, whole_run)


def test_two_processes_do_not_train_in_one_folder(case, whole_run, tmp_path):
    run = tmp_path / "run"
    interrupt(case, run, StopAfter(5))
    before = sorted((path.name, path.read_bytes()) for path in run.iterdir())
    with claimed(run):
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(RunError, match=r"another process is training in .*run"):
                train(case, run, **options)
    assert sorted((path.name, path.read_bytes()) for path in run.iterdir()) == before
    train(case, run, resume=True)
    assert_same_run(run, whole_run)


def test_a_disk_that_is_too_small_is_refused_before_the_first_step(case, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(free=1000))
    with pytest.raises(OutputError, match="needs about 17 MB"):
        train(case, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_needs_no_room_for_what_is_there(case, tmp_path, monkeypatch):
    run = tmp_path / "run"
    interrupt(case, run, StopAfter(5))
    most = 7 * 4 * case.bundle.manifest.tuning.trained_parameters + 2**24
    there = (run / f"{name}.safetensors" for name in ("last", "previous"))
    needed = most - sum(file.stat().st_size for file in there)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(free=needed - 1))
    with pytest.raises(OutputError, match="needs about"):
        train(case, run, resume=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(free=needed))
    train(case, run, resume=True)


def test_without_settings_a_run_is_as_the_bundle_says_and_goes_on_as_it_began(case, tmp_path):
    given = {"train": case.train, "valid": case.valid}
    finetune(case.bundle, tmp_path / "new", **given)
    settings = read_record(tmp_path / "new").settings
    assert settings.learning_rate == case.bundle.manifest.tuning.learning_rate
    assert settings.batch_size == case.bundle.manifest.batch_size
    interrupt(case, tmp_path / "run", StopAfter(5))
    finetune(case.bundle, tmp_path / "run", resume=True, **given)
    assert read_record(tmp_path / "run").settings.learning_rate == SETTINGS.learning_rate


class Diverges(FakeEngine):
    """Its loss is NaN in step 7."""

    def step(self, batch, learning_rate):
        result = super().step(batch, learning_rate)
        return Step(math.nan, 1.0) if self._step[0] == 7 else result


class Steep(FakeEngine):
    """Its gradient norm is NaN in step 7, though its loss is finite."""

    def step(self, batch, learning_rate):
        result = super().step(batch, learning_rate)
        return Step(1.0, math.nan) if self._step[0] == 7 else result


class Poisoned(FakeEngine):
    """Its parameters are NaN from step 7 on, and its loss has not noticed yet."""

    def step(self, batch, learning_rate):
        result = super().step(batch, learning_rate)
        if self._step[0] == 8:
            self._parameters["classifier.weight"][0] = np.nan
        return result


@pytest.mark.parametrize(
    ("engine", "sentence"),
    [
        (Diverges, "the loss of step 7 is nan, of rows 9, 10, 35, 36"),
        (Steep, "the gradient norm of step 7 is nan, of rows 9, 10, 35, 36"),
        (Poisoned, "parameters after step 8 are not finite"),
    ],
)
def test_divergence_keeps_the_last_good_checkpoint(case, tmp_path, monkeypatch, engine, sentence):
    monkeypatch.setattr(finetune_module, "open_engine", engine)
    with pytest.raises(RunError, match=f"{sentence}.*--resume --learning-rate 0.03"):
        train(case, tmp_path / "run")
    state = load_file(tmp_path / "run/last.safetensors")
    assert state["step"] == 4
    assert all(np.isfinite(value).all() for value in state.values())


class DivergesAtHighRates(FakeEngine):
    """Its loss is NaN from step 7 on, if the rate is high."""

    def step(self, batch, learning_rate):
        result = super().step(batch, learning_rate)
        return Step(math.nan, 1.0) if self._step[0] >= 7 and learning_rate > 0.03 else result


def test_a_diverged_run_goes_on_at_a_lower_rate_which_its_record_keeps(case, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_module, "open_engine", DivergesAtHighRates)
    run, lower = tmp_path / "run", msgspec.structs.replace(SETTINGS, learning_rate=0.03)
    with pytest.raises(RunError, match="diverged"):
        train(case, run)
    stop = StopAfter(9)
    interrupt(case, run, stop, settings=lower, resume=True)
    record = read_record(run)
    assert record.settings.learning_rate == 0.3
    assert record.changes == [Change(step=4, learning_rate=0.03)]
    train(case, run, None, resume=True)  # and the lower rate stays
    steps = [line for line in comparable(run) if isinstance(line, StepRecord)]
    assert [line.step for line in steps] == [*range(1, EPOCHS * STEPS_PER_EPOCH + 1)]
    assert max(line.learning_rate for line in steps[4:]) <= 0.03
    assert read_record(run).changes == record.changes


def test_rows_of_a_batch_that_diverged_are_counted_where_there_are_many(
    case, tmp_path, monkeypatch
):
    monkeypatch.setattr(finetune_module, "open_engine", Diverges)
    many = msgspec.structs.replace(SETTINGS, batch_size=20, epochs=10)
    with pytest.raises(RunError, match=r"of rows (\d+, ){15}\d+ and 4 more; last"):
        train(case, tmp_path / "run", many)


def test_a_run_moves_with_its_bundle(case, tmp_path):
    (tmp_path / "here").mkdir()
    shutil.copytree(case.bundle.path, tmp_path / "here/bundle")
    moved = case._replace(bundle=open_bundle(tmp_path / "here/bundle"))
    train(moved, tmp_path / "here/run")
    (tmp_path / "here").rename(tmp_path / "there")
    run = tmp_path / "there/run"
    record = read_record(run)
    assert open_run_bundle(run, record).path.resolve() == tmp_path / "there/bundle"
    shutil.rmtree(tmp_path / "there/bundle")
    with pytest.raises(RunError, match="--bundle"):
        open_run_bundle(run, record)
    assert open_run_bundle(run, record, case.bundle.path).id == record.bundle_id
    with pytest.raises(RunError, match="is not the bundle that"):
        open_run_bundle(run, record, make_bundle(tmp_path / "other", seed=3).path)


def test_more_threads_than_processors_are_refused_before_any_file_is_made(case, tmp_path):
    many = msgspec.structs.replace(SETTINGS, threads=100_000)
    with pytest.raises(InputError, match=r"100000 threads are more than the \d+ processors"):
        train(case, tmp_path / "run", many)
    assert not (tmp_path / "run").exists()


def test_settings_out_of_range_are_refused():
    for wrong in ({"epochs": 0}, {"learning_rate": -1.0}, {"warmup_ratio": 2.0}, {"seed": -1}):
        with pytest.raises(RunError, match=next(iter(wrong))):
            TrainingSettings(**wrong)


def test_paths_with_spaces_are_quoted_in_the_command_to_go_on(case, tmp_path):
    hint = interrupt(case, tmp_path / "my run", StopAfter(1)).hint
    assert f"'{tmp_path / 'my run'}' --resume" in hint
