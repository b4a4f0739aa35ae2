"""Benchmarks measure sides in turn, keep what they measured, and answer in one form."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from benchmarks import fusion_quality, harness


@pytest.fixture
def benchmark(tmp_path, monkeypatch, capsys):
    """Run a benchmark of given cases as a program, in directories of its own."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "PARTIAL", tmp_path / "partial")

    def run(cases, *options, **arguments):
        monkeypatch.setattr(sys, "argv", ["program", *options])
        harness.main("startup_time", cases, **arguments)
        return capsys.readouterr().out

    return run


def test_a_full_run_writes_the_record_and_its_page(benchmark, tmp_path):
    out = benchmark(
        {"one": lambda case: {"ms": 1.25, "quick": case.quick}}, "--json", description="Q?"
    )
    record = json.loads(out)
    assert record.keys() == {"benchmark", "machine", "date", "versions", "cases"}
    assert record["cases"] == [{"case": "one", "ms": 1.25, "quick": False}]
    assert json.loads((tmp_path / "results/startup_time.json").read_text()) == record
    page = (tmp_path / "results/startup_time.md").read_text()
    assert "\nQ?\n" in page
    assert "| one | 1.25 | False |" in page


def test_a_quick_run_writes_no_result(benchmark, tmp_path):
    out = benchmark({"one": lambda case: {"quick": case.quick}}, "--quick")
    assert "| one | True |" in out
    assert not (tmp_path / "results").exists()


def test_an_interrupted_run_goes_on_where_it_was(benchmark, tmp_path):
    def interrupt(case):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        benchmark({"one": lambda _: {"n": 1}, "two": interrupt})
    assert exit_.value.code == 130
    rest = {"one": interrupt, "two": lambda _: {"n": 2}}
    record = json.loads(benchmark(rest, "--json", "--resume"))
    assert [case["n"] for case in record["cases"]] == [1, 2]


def test_an_interrupted_case_finds_what_it_had_made(benchmark, tmp_path):
    def measure(case):
        done = case.work / "done"
        if done.exists():
            return {"n": int(done.read_text())}
        done.write_text("7")
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(SystemExit):
            benchmark({"a/one": measure})
    record = json.loads(benchmark({"a/one": measure}, "--json", "--resume"))
    assert record["cases"][0]["n"] == 7
    assert not list((tmp_path / "partial").rglob("done"))


def test_a_case_may_ask_what_another_came_to(benchmark):
    def later(case):
        return {"twice": 2 * case.measured["one"]["n"]}

    benchmark({"one": lambda _: {"n": 4}, "later": later}, "--only", "one")
    record = json.loads(
        benchmark({"one": lambda _: {"n": 5}, "later": later}, "--json", "--resume")
    )
    assert record["cases"][1] == {"case": "later", "twice": 8}
    with pytest.raises(KeyError):
        benchmark({"one": lambda _: {"n": 5}, "later": later}, "--only", "later")


def test_some_cases_can_be_measured_now_and_the_record_says_which_are_not(benchmark, tmp_path):
    cases = {"a/one": lambda _: {"n": 1}, "a/two": lambda _: {"n": 2}, "b": lambda _: {"n": 3}}
    record = json.loads(benchmark(cases, "--json", "--only", "a/*", "--note", "On a busy day."))
    assert [case["case"] for case in record["cases"]] == ["a/one", "a/two"]
    assert record["not_measured"] == ["b"]
    assert (
        "Not measured: b.\n\nOn a busy day.\n" in (tmp_path / "results/startup_time.md").read_text()
    )
    again = dict.fromkeys(("a/one", "a/two"), pytest.fail) | {"b": cases["b"]}
    record = json.loads(benchmark(again, "--json", "--resume", "--only", "b"))
    assert len(record["cases"]) == 3
    assert "not_measured" not in record
    with pytest.raises(SystemExit):
        benchmark(cases, "--only", "c*")


def test_a_case_is_measured_again_when_its_inputs_changed(benchmark, tmp_path):
    data = tmp_path / "data"

    def measure(case):
        begun = case.work / "begun"
        assert not begun.exists(), "begun with other inputs"
        begun.touch()
        return {"data": data.read_text()}

    def begin(case):
        (case.work / "begun").touch()
        raise KeyboardInterrupt

    for text in ("before", "after"):
        data.write_text(text)
        record = json.loads(benchmark({"one": measure}, "--json", "--resume", inputs=[data]))
        assert record["cases"][0]["data"] == text
        with pytest.raises(SystemExit):
            benchmark({"two": begin}, "--resume", inputs=[data])
    data.write_text("at last")
    benchmark({"two": measure}, "--resume", inputs=[data])
    assert not list((tmp_path / "partial").rglob("begun"))


def test_what_cases_share_stays_until_the_inputs_change(benchmark, tmp_path):
    data = tmp_path / "data"

    def measure(case):
        (case.kept / f"{len(list(case.kept.iterdir()))}").touch()
        return {"made": len(list(case.kept.iterdir()))}

    def made(*options):
        record = json.loads(
            benchmark({"one": measure, "two": measure}, "--json", *options, inputs=[data])
        )
        return [case["made"] for case in record["cases"]]

    data.write_text("before")
    assert made("--quick") == [1, 2]
    assert made() == [3, 4]
    data.write_text("after")
    assert made() == [1, 2]
    assert len(list((tmp_path / "partial/startup_time-kept").iterdir())) == 1


def test_what_is_kept_outlives_a_fresh_run_that_ends_early(benchmark):
    def interrupt(case):
        raise KeyboardInterrupt

    benchmark({"one": lambda _: {"n": 1}})
    with pytest.raises(SystemExit):
        benchmark({"one": interrupt})
    record = json.loads(benchmark({"one": interrupt}, "--json", "--resume"))
    assert record["cases"] == [{"case": "one", "n": 1}]


def test_the_page_says_which_cases_another_machine_measured(benchmark, tmp_path):
    cases = {"one": lambda _: {"n": 1}, "two": lambda _: {"n": 2}}
    here = harness.probe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "probe", lambda: msgspec.structs.replace(here, soc="Z80"))
        benchmark(cases, "--only", "one")
    record = json.loads(benchmark(cases, "--json", "--resume"))
    assert [(case, one["soc"]) for case, one in record["origins"].items()] == [("one", "Z80")]
    page = (tmp_path / "results/startup_time.md").read_text()
    assert re.search(r"^Measured \S+ on Z80 at commit \S+: one\.$", page, re.MULTILINE)


def test_a_record_that_is_added_to_says_at_which_commit_its_cases_were_measured(
    benchmark, tmp_path, monkeypatch
):
    cases = {"one": lambda _: {"n": 1}, "two": lambda _: {"n": 2}, "three": lambda _: {"n": 3}}

    def measure(commit, case):
        monkeypatch.setattr(harness, "versions", lambda *_: {"commit": commit})
        return json.loads(benchmark(cases, "--json", "--add", "--only", case))

    assert "origins" not in measure("aaa", "one")
    measure("bbb", "two")
    record = measure("ccc", "three")
    assert [case["n"] for case in record["cases"]] == [1, 2, 3]
    assert {case: one["commit"] for case, one in record["origins"].items()} == {
        "one": "aaa",
        "two": "bbb",
    }
    assert "not_measured" not in record
    page = (tmp_path / "results/startup_time.md").read_text()
    assert re.search(r"at commit aaa: one\.$", page, re.MULTILINE)
    measured_again = measure("ccc", "one")
    assert list(measured_again["origins"]) == ["two"]


def test_a_commit_is_changed_by_the_source_and_not_by_what_benchmarks_write(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    git = ("git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e")
    for name in ("source.py", "docs/results/one.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "m")):
        subprocess.run([*git, *command], check=True)
    clean = harness.versions()["commit"]
    (tmp_path / "docs/results/one.md").write_text("2")
    assert harness.versions()["commit"] == clean
    (tmp_path / "source.py").write_text("2")
    assert harness.versions()["commit"] == f"{clean}-dirty"


SLOW_TO_STOP = """\
#!/bin/sh
trap 'sleep 1; touch saved; exit 130' INT
touch begun
while true; do sleep 0.1; done
"""
INTERRUPTED = """
import sys
from benchmarks import harness
sys.executable = "./slow"
try:
    harness.edgefuse("finetune")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_command_that_is_interrupted_may_save_first(tmp_path):
    (tmp_path / "slow").write_text(SLOW_TO_STOP)
    (tmp_path / "slow").chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(harness.ROOT)},
        start_new_session=True,
    ) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate()[0] == "interrupted\n"
    assert (tmp_path / "saved").exists()


def test_a_command_that_fails_ends_the_benchmark():
    with pytest.raises(subprocess.CalledProcessError):
        harness.edgefuse("evaluate", "there-is-no-such-run", "rows.jsonl")


def test_sides_take_turns_at_going_first():
    order = []
    sides = {side: (lambda s=side: order.append(s) or {"side": s}) for side in ("ours", "theirs")}
    measured = harness.in_turn(sides, rounds=3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert measured["theirs"] == [{"side": "theirs"}] * 3


def test_a_ratio_is_taken_within_each_round():
    assert harness.median_ratio([1, 20, 300], [1, 10, 100]) == 2


def test_startup_time_answers_in_the_form():
    command = [sys.executable, "-m", "benchmarks.startup_time", "--quick", "--json"]
    result = subprocess.run(command, capture_output=True, cwd=harness.ROOT, check=True)
    (case,) = json.loads(result.stdout)["cases"]
    assert case["case"] == "help"
    assert case["slowest_seconds"] >= case["seconds"] > case["python_seconds"] > 0


def test_a_fresh_process_gives_back_what_the_function_returns():
    assert "edgefuse" in harness.in_fresh_process(harness.versions, packages=["typer"])
    with pytest.raises(RuntimeError, match="versions"):
        harness.in_fresh_process(harness.versions, unknown=1)


def test_the_table_of_fusion_has_every_row_that_it_is_to_show():
    rows = fusion_quality._cases().keys()
    methods = ("published", "clustering", "sketch", "mmd", "svd", "prune", "prune-activation")
    for task in ("sst2", "banking77"):
        defaults = {f"default{which}@0.25" for which in ("", "-upper", "-sensitivity")}
        fused = (*defaults, "default@0.5", "random@0.25")
        assert {f"{task}/{row}" for row in ("unfused", *fused)} <= rows
        for stages in ("", "+refit+tuning"):
            assert {f"{task}/{method}{stages}@0.25" for method in methods} <= rows
    smollm2 = ("unfused", "default@0.75", "default@0.5", "flap+ridge@0.5")
    assert {f"smollm2/{row}" for row in smollm2} <= rows
    for model in ("tiny-llama", "tiny-mixtral"):
        compared = {f"{model}/{method}@0.5" for method in (*methods, "random", "default")}
        assert compared - {"tiny-mixtral/svd@0.5"} <= rows


_PROGRAMS = sorted(
    path.stem
    for path in (harness.ROOT / "benchmarks").glob("*.py")
    if "harness.main(" in path.read_text() and path.stem != "harness"
)


@pytest.mark.parametrize("name", _PROGRAMS)
def test_every_benchmark_says_which_cases_there_are(name, data_directory, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--only", "nothing"])
    monkeypatch.delitem(sys.modules, f"benchmarks.{name}", raising=False)
    with pytest.raises(SystemExit):
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert re.search(r"no case matches nothing; there are \w+", capsys.readouterr().err)
