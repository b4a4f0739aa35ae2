"""bench measures training where nothing else runs, and never passes a machine off as a board."""

import json
import shlex
import signal
import subprocess
import sys

import msgspec
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from edgefuse.cli._app import app
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import (
    BundleError,
    EdgeFuseError,
    InputError,
    InternalError,
    OutputError,
)
from edgefuse_devices.probe import probe
from edgefuse_runtime.bundle.bundle import MANIFEST, open_bundle, write_manifest
from edgefuse_runtime.machine import emulation, sensors
from edgefuse_runtime.measuring import bench as bench_module
from edgefuse_runtime.measuring import process as bench_process
from edgefuse_runtime.measuring.bench import bench, plan_workload
from edgefuse_runtime.measuring.process import Finished, Ready, Stepped, random_batches
from edgefuse_runtime.measuring.report import BenchReport, measured_on

MIB = 2**20


@pytest.fixture(scope="module")
def bundle(pico_bundle):
    return open_bundle(pico_bundle)


@pytest.fixture(scope="module")
def workload(bundle):
    return plan_workload(bundle, threads=1, warmup=1, steps=4)


@pytest.fixture(scope="module")
def report(bundle, workload):
    return bench(bundle, workload)


def messages(*seconds, **ready):
    """What the measured process would say."""
    facts = {
        "load_seconds": 1.5,
        "base_rss_bytes": 50 * MIB,
        "vocabulary": 100,
        "distinct_tokens": 60,
        "tokens_per_row": 16,
        "trained_bytes": 7 * MIB,
        "optimizer_bytes": 14 * MIB,
        "engine_version": "1.30",
    }
    return [Ready(**facts), *map(Stepped, seconds), Finished(80 * MIB)]


def pretend(monkeypatch, answer):
    monkeypatch.setattr(bench_module, "_in_process_of_its_own", lambda *_: iterate(answer))


def iterate(answer):
    yield from answer


# What is trained on


def test_the_bundles_shape_and_the_boards_threads_are_the_default(bundle):
    workload = plan_workload(bundle)
    assert (workload.batch_size, workload.sequence_length) == (4, 16)
    assert workload.threads == probe().threads


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"sequence_length": 17}, "--sequence-length 17 is above the bundle's 16"),
        ({"sequence_length": 1}, "sequence_length is 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"warmup": -1}, "warmup is -1"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(bundle, given, problem):
    with pytest.raises(InputError, match=problem):
        plan_workload(bundle, **given)


def test_batches_are_full_and_the_same_every_time(bundle, workload):
    vocabulary = np.arange(20)
    once, again = (random_batches(bundle, workload, vocabulary) for _ in range(2))
    for batch, same in zip(once, again, strict=True):
        assert batch["input_ids"].shape == (4, 16)
        assert batch["attention_mask"].all()
        assert bundle.manifest.padding_id not in batch["input_ids"]
        np.testing.assert_array_equal(batch["input_ids"], same["input_ids"])
        np.testing.assert_array_equal(batch["labels"], same["labels"])
    assert {*np.concatenate([batch["labels"] for batch in once]).tolist()} == {0, 1}


# What is measured


def test_a_report_holds_what_was_measured(report, bundle, workload):
    assert report.bundle_id == bundle.id
    assert report.workload == workload
    assert 0 < report.step_ms.p50 <= report.step_ms.p90 <= report.step_ms.p99
    assert report.tokens_per_second == pytest.approx(16 * report.samples_per_second)
    assert 0 < report.base_rss_bytes < report.peak_rss_bytes
    assert 0 < report.distinct_tokens <= report.vocabulary
    assert report.engine_version.startswith("1.")


def test_memory_is_that_of_a_process_without_what_this_one_holds(bundle, workload):
    ballast = np.ones(300 * MIB, np.uint8)
    assert bench(bundle, workload).peak_rss_bytes < ballast.nbytes


def test_warm_up_does_not_count(monkeypatch, bundle):
    pretend(monkeypatch, messages(9.0, 8.0, *np.linspace(0.1, 0.3, 101)))
    temperatures = iter([48.0, 71.5])
    monkeypatch.setattr(sensors, "temperature", lambda: next(temperatures))
    report = bench(bundle, plan_workload(bundle, warmup=2, steps=101))
    step = report.step_ms
    assert (step.p50, step.p90, step.p99) == pytest.approx((200, 280, 298))
    assert report.samples_per_second == pytest.approx(4 / 0.2)
    assert report.first_step_ms == 9000
    assert report.temperatures == (48.0, 71.5)
    assert [doubt.partition(" by ")[0] for doubt in report.doubts] == [
        "the middle half of the steps differs",
        "steps became slower",
    ]


def test_every_step_is_told_of(bundle, workload):
    steps = []
    bench(bundle, workload, on_progress=lambda *now: steps.append(now))
    total = workload.warmup + workload.steps
    assert steps == [("Measuring", done, total) for done in range(1, total + 1)]


def test_only_embeddings_that_occur_are_counted(bundle, monkeypatch):
    ready = next(bench_process.measure(bundle.path, plan_workload(bundle, threads=1)))
    every = 4 * bundle.manifest.tuning.trained_parameters
    left_out = 4 * 16 * (ready.vocabulary - ready.distinct_tokens - 1)  # the padding's is kept
    assert ready.trained_bytes == every - left_out
    pretend(monkeypatch, [ready, Stepped(1.0), Finished(1)])
    report = bench(bundle, plan_workload(bundle, warmup=0, steps=1))
    assert report.parameter_bytes == report.gradient_bytes == ready.trained_bytes
    assert report.optimizer_bytes == 2 * ready.trained_bytes


# Whose speed it is


def test_another_machine_than_the_board_is_named_as_such(report):
    machine = probe().title
    assert not report.is_board
    assert report.measured_on == (
        f"Measured on {machine}, not on the Raspberry Pi 5 that the bundle is for."
    )


def test_the_board_itself_is_named_as_such(monkeypatch, tmp_path, bundle):
    here = msgspec.structs.replace(bundle.manifest, device=probe())
    pretend(monkeypatch, messages(0.1))
    report = bench(write_manifest(tmp_path, here), plan_workload(bundle, warmup=0, steps=1))
    assert report.is_board
    assert report.measured_on.startswith("Measured on the board that the bundle is for: ")


def test_an_emulation_of_the_board_is_not_the_board(monkeypatch, tmp_path, bundle):
    here = msgspec.structs.replace(bundle.manifest, device=probe())
    monkeypatch.setattr(bench_module, "emulated", lambda: True)
    monkeypatch.setattr(bench_process, "measure", lambda *_: iterate(messages(0.1)))
    report = bench(write_manifest(tmp_path, here), plan_workload(bundle, warmup=0, steps=1))
    assert report.emulated
    assert not report.is_board
    assert "says nothing about the speed" in report.measured_on


@pytest.mark.parametrize("is_board", [True, False])
def test_emulation_is_said_first(is_board):
    pi = load_device("rpi5")
    sentence = measured_on(pi, pi, is_board=is_board, emulated=True)
    assert sentence.startswith("Measured under CPU emulation")


@pytest.mark.parametrize(
    ("kernel", "machine", "variables", "expected"),
    [
        ("x86_64", "x86_64", {}, False),
        ("x86_64", "aarch64", {}, True),
        ("aarch64", "x86_64", {}, True),
        ("aarch64", "aarch64", {"QEMU_CPU": "cortex-a76"}, False),
        (None, "aarch64", {"QEMU_CPU": "cortex-a76"}, True),
        (None, "aarch64", {}, False),
    ],
)
def test_emulation_shows(monkeypatch, tmp_path, *, kernel, machine, variables, expected):
    file = tmp_path / "arch"
    if kernel:
        file.write_text(f"{kernel}\n")
    monkeypatch.setattr(emulation, "_KERNEL", file)
    monkeypatch.setattr(emulation.platform, "machine", lambda: machine)
    monkeypatch.delenv("QEMU_CPU", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert emulation.emulated() is expected


# What goes wrong


def test_an_error_of_the_measured_process_is_an_error_here(tmp_path, bundle, workload):
    (tmp_path / MANIFEST).write_text("{}")
    lost = type(bundle)(tmp_path, bundle.manifest, bundle.id)
    with pytest.raises(BundleError, match="cannot be read"):
        bench(lost, workload)


@pytest.mark.parametrize(
    ("script", "error", "problem"),
    [
        (f"import os; os.kill(os.getpid(), {signal.SIGKILL:d})", EdgeFuseError, "was killed"),
        ("raise SystemExit(3)", InternalError, "ended with 3"),
        ("pass", InternalError, "without a result"),
    ],
)
def test_a_measured_process_that_dies_is_no_report(
    monkeypatch, tmp_path, bundle, workload, *, script, error, problem
):
    program = tmp_path / "python"
    # Not `#!{sys.executable}`: the path of a checkout may have a space, a shebang's may not.
    command = shlex.join([sys.executable, "-c", script])
    program.write_text(f"#!/bin/sh\nexec {command}\n")
    program.chmod(0o755)
    monkeypatch.setattr(bench_module.sys, "executable", str(program))
    with pytest.raises(error, match=problem):
        bench(bundle, workload)


# The command


def edgefuse(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_shows_a_row_to_paste_and_writes_the_report(pico_bundle, tmp_path):
    file = tmp_path / "my report.json"
    result = edgefuse("bench", pico_bundle, "-o", file, "--steps", 2, "--warmup", 0, "--threads", 1)
    assert result.exit_code == 0, result.output
    written = msgspec.json.decode(file.read_bytes(), type=BenchReport)
    lines = result.stdout.splitlines()
    assert written.measured_on in lines
    header, rule, row = (line for line in lines if line.startswith("| "))
    assert header.count("|") == rule.count("|") == row.count("|")
    assert "not Raspberry Pi 5" in row
    assert lines[-1].endswith(f": edgefuse report '{file}' -o report.html")


def test_the_command_prints_one_object_of_json(pico_bundle):
    result = edgefuse(
        "bench", pico_bundle, "--json", "--steps", 1, "--batch-size", 2, "--sequence-length", 5
    )
    shown = json.loads(result.stdout)
    assert shown["report"] == "bench"
    assert shown["workload"]["batch_size"] == 2
    assert shown["workload"]["sequence_length"] == 5
    assert "not on the Raspberry Pi 5" in shown["measured_on"]


@pytest.mark.parametrize("place", ["missing/report.json", "."])
def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(
    monkeypatch, pico_bundle, tmp_path, place
):
    pretend(monkeypatch, [])
    result = edgefuse("bench", pico_bundle, "-o", tmp_path / place)
    assert isinstance(result.exception, OutputError)


_MEASURING = """
import sys
from pathlib import Path
from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.measuring.bench import bench, plan_workload
bundle = open_bundle(Path(sys.argv[1]))
workload = plan_workload(bundle, threads=1, warmup=1, steps=10**9)
bench(bundle, workload, on_progress=lambda *_: print("a step", flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_the_measured_process_ends_with_the_one_that_measures(pico_bundle):
    command = [sys.executable, "-c", _MEASURING, str(pico_bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"a step\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive
