"""What the benchmarks share: options, the record, resuming, fresh processes, rounds in turn.

A benchmark is a module with functions that measure, and ends with

    if __name__ == "__main__":
        harness.main("step_time", {"some-case": measure}, description=__doc__)

A full run writes docs/results/NAME.json, and NAME.md from it; a quick one only prints.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgefuse_devices import __version__
from edgefuse_devices.probe import probe

Figures = dict[str, Any]
"""What a case came to, as JSON: numbers, texts, lists."""
Measure = Callable[[bool], Figures]
"""Measures a case; True asks for fewer rounds, rows and seeds."""

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PARTIAL = ROOT / ".cache" / "benchmarks"
_MEASURED: dict[str, Figures] = {}
_WORKPLACE: list[Path] = []
_HOUSES = ("edgefuse", "export", "runtime", "devices")


def main(
    name: str,
    cases: Mapping[str, Measure],
    *,
    description: str | None = None,
    packages: Sequence[str] = (),
    inputs: Iterable[Path] = (),
    quick: Sequence[str] = (),
) -> None:
    """Run a benchmark as a program.

    Args:
        name: Of the benchmark's module.
        cases: A function for each case, in the order in which they run.
        description: The module's docstring: opens --help and NAME.md.
        packages: Distributions whose versions matter.
        inputs: Files besides the source that the figures depend on: data, models.
        quick: Cases that a quick run measures; all without.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds, rows and seeds")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--resume", action="store_true", help="keep cases that are measured")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="cases to measure now, such as 'sst2/*'; the record has them and those kept",
    )
    parser.add_argument("--note", help="what readers of the page have to know of this run")
    options = parser.parse_args()
    if options.quick and quick:
        cases = {case: cases[case] for case in quick}
    wanted = [case for case in cases if _matches(case, options.only)]
    if not wanted:
        parser.error(f"no case matches {' or '.join(options.only)}; there are {', '.join(cases)}")
    partial = PARTIAL / f"{name}{'-quick' if options.quick else ''}.json"
    state = _digest([*_sources(name), *inputs])
    kept = _load(partial, state) if options.resume else None
    workplaces = partial.with_suffix(".work")
    if kept is None:
        shutil.rmtree(workplaces, ignore_errors=True)
    measured = _MEASURED
    measured.clear()
    measured.update(kept or {})
    _write(partial, json.dumps({"inputs": state, "cases": measured}))
    for case in wanted:
        if case not in measured:
            _say(f"{name}: {case} …")
            _WORKPLACE[:] = [workplaces / case.replace("/", "-")]
            try:
                measured[case] = cases[case](options.quick)
            except KeyboardInterrupt:
                _say(f"\n{len(measured)} of {len(cases)} cases are kept: go on with --resume")
                sys.exit(130)
            _write(partial, json.dumps({"inputs": state, "cases": measured}))
            shutil.rmtree(_WORKPLACE[0], ignore_errors=True)
    record = {
        "benchmark": name,
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions(packages),
        "cases": [{"case": case, **measured[case]} for case in cases if case in measured],
    }
    if left := [case for case in cases if case not in measured]:
        record["not_measured"] = left
    if options.note:
        record["note"] = options.note
    if not options.quick:
        _write(RESULTS / f"{name}.json", json.dumps(record, indent=2) + "\n")
        _write(RESULTS / f"{name}.md", markdown(record, description))
    print(json.dumps(record) if options.json else markdown(record, description).rstrip())


def measured_before(case: str) -> Figures | None:
    """What another case came to, in this run or in the one that is resumed."""
    return _MEASURED.get(case)


def workplace() -> Path:
    """The folder for what a case makes on its way, deleted when it is measured.

    With --resume a case finds there what it had made before it was interrupted.
    """
    (folder,) = _WORKPLACE
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _matches(case: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch(case, pattern) for pattern in patterns)


def machine() -> Figures:
    """The machine at hand."""
    host = probe()
    return {
        "soc": host.soc,
        "architecture": host.architecture,
        "cores": host.cores,
        "memory_mib": host.memory_mib,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of EdgeFuse, its commit, Python, and those of `packages` that are installed."""
    found = {"edgefuse": __version__, "python": platform.python_version()}
    if git := shutil.which("git"):
        describe = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(describe, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found["commit"] = done.stdout.strip()
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def edgefuse(command: str, *arguments: str) -> Figures:
    """Run a command of EdgeFuse as people type it, and give what it prints with --json."""
    done = subprocess.run(
        [sys.executable, "-m", "edgefuse", command, *arguments, "--json"],
        check=True,
        capture_output=True,
        text=True,
    )
    answer: Figures = json.loads(done.stdout)
    return answer


def in_fresh_process(
    function: Callable[..., Any], *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Any:
    """Call a function in a Python process of its own.

    Args:
        function: At the top level of a module that can be imported.
        environment: Variables besides those of this process.
        arguments: Its keyword arguments, as JSON.

    Returns:
        What it returned, as JSON.

    Raises:
        RuntimeError: It failed; the process has said on stderr how.
    """
    module = function.__module__
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    command = [sys.executable, "-m", "benchmarks.harness", module, function.__qualname__]
    done = subprocess.run(
        command,
        input=json.dumps(arguments),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise RuntimeError(f"{function.__qualname__}({arguments}) failed in its process")
    return json.loads(done.stdout)


def in_turn(sides: Mapping[str, Callable[[], Figures]], *, rounds: int) -> dict[str, list[Figures]]:
    """Measure every side once in each round, every other round backwards.

    What changes slowly in a machine (heat, other users) then meets all sides alike.
    """
    measured: dict[str, list[Figures]] = {side: [] for side in sides}
    for index in range(rounds):
        for side in list(sides)[:: -1 if index % 2 else 1]:
            measured[side].append(sides[side]())
            _say(f"  round {index + 1}/{rounds} {side}: {measured[side][-1]}")
    return measured


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def markdown(record: Mapping[str, Any], description: str | None = None) -> str:
    """The record as a page: what it is, a table of cases, machine and versions."""
    columns = list(dict.fromkeys(key for case in record["cases"] for key in case))
    lines = [f"# {record['benchmark']}", ""]
    if description:
        lines += [description.strip(), ""]
    lines += [_row(columns), _row(["---"] * len(columns))]
    lines += [_row([_cell(case.get(key)) for key in columns]) for case in record["cases"]]
    if left := record.get("not_measured"):
        lines += ["", f"Not measured: {', '.join(left)}."]
    if note := record.get("note"):
        lines += ["", note]
    about = record["machine"]
    installed = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    where = f"{about['soc']} ({about['cores']} cores, {about['memory_mib'] / 1024:.0f} GiB, "
    where += f"{about['architecture']}, {about['system']})"
    lines += ["", f"Measured {record['date']} on {where} with {installed}."]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)


def _sources(name: str) -> list[Path]:
    own = [Path(__file__).with_name(f"{module}.py") for module in ("harness", "data", name)]
    return own + sorted(path for house in _HOUSES for path in (ROOT / house).rglob("*.py"))


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _load(partial: Path, state: str) -> dict[str, Figures] | None:
    if not partial.exists():
        return None
    kept = json.loads(partial.read_text())
    return dict(kept["cases"]) if kept["inputs"] == state else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _call() -> None:
    """The far side of `in_fresh_process`; whatever else is printed goes to stderr."""
    from contextlib import redirect_stdout  # noqa: PLC0415
    from importlib import import_module  # noqa: PLC0415

    _, module, name = sys.argv
    with redirect_stdout(sys.stderr):
        result = getattr(import_module(module), name)(**json.load(sys.stdin))
    print(json.dumps(result))


if __name__ == "__main__":
    _call()
