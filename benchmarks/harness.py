"""What the benchmarks share: options, the record, resuming, fresh processes, rounds in turn.

A benchmark is a module with functions that measure a `Case`, and ends with

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
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgefuse_devices import __version__
from edgefuse_devices.probe import probe
from edgefuse_runtime.files.replace import write_bytes

Figures = dict[str, Any]
"""What a case came to, as JSON: numbers, texts, lists."""

ROOT = Path(__file__).parents[1]
_RESULTS = "docs/results"
RESULTS = ROOT / _RESULTS
PARTIAL = ROOT / ".cache" / "benchmarks"
_HOUSES = ("edgefuse", "export", "runtime", "devices")


@dataclass(frozen=True)
class Case:
    """What a function is to measure with.

    Attributes:
        quick: Fewer rounds, rows and seeds will do.
        work: A folder for what is made on the way, deleted when the case is measured. With
            --resume there is in it what had been made before an interruption.
        kept: A folder for what other cases and later runs need too, a model or a bundle: it stays
            until the source or the data change.
        measured: What other cases came to, in this run or in the one that is resumed, or with --add
            in the record.
    """

    quick: bool
    work: Path
    kept: Path
    measured: Mapping[str, Figures]


Measure = Callable[[Case], Figures]


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
        name: Name of the benchmark's module.
        cases: A function for each case, in the order in which they run.
        description: The module's docstring: opens --help and NAME.md.
        packages: Distributions whose versions matter.
        inputs: Files besides the source that the figures depend on: data, models.
        quick: Cases that a quick run measures; all without.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--quick", action="store_true", help="few rounds, rows and seeds")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument(
        "--resume", action="store_true", help="keep what is measured, and go on with what was begun"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="cases to measure now, such as 'sst2/*'; the record has them and those kept",
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="to the record there is, which says of its cases at which commit they were measured",
    )
    parser.add_argument("--note", help="what readers of the page have to know of this run")
    options = parser.parse_args()
    if options.quick and quick:
        cases = {case: cases[case] for case in quick}
    wanted = [case for case in cases if _matches(case, options.only)]
    if not wanted:
        parser.error(f"no case matches {' or '.join(options.only)}; there are {', '.join(cases)}")
    state = _digest([*_sources(name), *inputs])
    store = _Store(PARTIAL / f"{name}{'-quick' if options.quick else ''}", state)
    kept = _kept(PARTIAL / f"{name}-kept", state)
    measured = store.load() if options.resume else {}
    recorded = _recorded(name) if options.add else {}
    for case in wanted:
        if case not in measured:
            _say(f"{name}: {case} …")
            work = store.folder(case, fresh=not options.resume)
            known = {one: entry["figures"] for one, entry in (recorded | measured).items()}
            try:
                figures = cases[case](Case(options.quick, work, kept, known))
            except KeyboardInterrupt:
                _say(f"\n{len(measured)} of {len(cases)} cases are kept: go on with --resume")
                sys.exit(130)
            measured[case] = {"figures": figures, "origin": _origin()}
            store.save(measured, done=case)
    shown = {case: (recorded | measured)[case] for case in cases if case in recorded | measured}
    here = machine()
    record: Figures = {
        "benchmark": name,
        "machine": here,
        "date": _today(),
        "versions": versions(packages),
        "cases": [{"case": case, **entry["figures"]} for case, entry in shown.items()],
    }
    if left := [case for case in cases if case not in shown]:
        record["not_measured"] = left
    place = _place(_origin())
    if others := {
        case: entry["origin"] for case, entry in shown.items() if _place(entry["origin"]) != place
    }:
        record["origins"] = others
    if options.note:
        record["note"] = options.note
    if not options.quick:
        _write(RESULTS / f"{name}.json", json.dumps(record, indent=2) + "\n")
        _write(RESULTS / f"{name}.md", markdown(record, description))
    print(json.dumps(record) if options.json else markdown(record, description).rstrip())


def _recorded(name: str) -> dict[str, Figures]:
    """Figures and origin of the cases that the last record has."""
    file = RESULTS / f"{name}.json"
    if not file.exists():
        return {}
    record = json.loads(file.read_text(encoding="utf-8"))
    others = record.get("origins", {})
    origin = {
        "soc": record["machine"]["soc"],
        "date": record["date"],
        "commit": record["versions"].get("commit"),
    }
    figures = {case.pop("case"): case for case in record["cases"]}
    return {
        case: {"figures": one, "origin": others.get(case, origin)} for case, one in figures.items()
    }


def remove(folder: Path) -> None:
    """Delete a folder with all that is in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _kept(folders: Path, state: str) -> Path:
    """The folder of what these inputs made; that of others is deleted."""
    kept = folders / state
    for other in folders.iterdir() if folders.exists() else ():
        if other != kept:
            remove(other)
    kept.mkdir(parents=True, exist_ok=True)
    return kept


class _Store:
    """What is kept of a run: a file of the cases that are measured, a folder of those begun."""

    def __init__(self, path: Path, state: str) -> None:
        """Keep it at a path; what was made from other inputs than `state` says does not count."""
        self._file, self._folders, self._state = path.with_suffix(".json"), path, state

    def load(self) -> dict[str, Figures]:
        """Figures and origin of the cases that are measured."""
        if not self._file.exists():
            return {}
        kept = json.loads(self._file.read_text())
        if kept["inputs"] == self._state:
            return dict(kept["cases"])
        _say("The source or the data have changed since: nothing is kept")
        return {}

    def folder(self, case: str, *, fresh: bool) -> Path:
        """The folder for what a case makes on its way."""
        folder = self._folders / self._state / case.replace("/", "-")
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, measured: Mapping[str, Figures], *, done: str) -> None:
        """Keep figures, and delete what was made for them, and what other inputs have left."""
        _write(self._file, json.dumps({"inputs": self._state, "cases": measured}))
        shutil.rmtree(self.folder(done, fresh=False))
        for other in self._folders.iterdir():
            if other.name != self._state:
                shutil.rmtree(other)


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


def _origin() -> Figures:
    return {"soc": probe().soc, "date": _today(), "commit": versions().get("commit")}


def _place(origin: Figures) -> tuple[str, str | None]:
    """What two cases of one table have in common that needs no word: machine and source."""
    return origin["soc"], origin["commit"]


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """Versions of EdgeFuse, its commit, Python, and those of `packages` that are installed."""
    found = {"edgefuse": __version__, "python": platform.python_version()}
    if git := shutil.which("git"):
        head = [git, "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        source = [git, "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", ".", f":!{_RESULTS}"]
        done = subprocess.run(head, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            changed = subprocess.run(source, check=False).returncode
            found["commit"] = done.stdout.strip() + ("-dirty" if changed else "")
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def edgefuse(command: str, *arguments: str) -> Figures:
    """Run a command of EdgeFuse as people type it, and give what it prints with --json.

    Ctrl-C waits until the command has saved what it can go on from.

    Raises:
        subprocess.CalledProcessError: It failed; its stderr has the reason.
    """
    words = [sys.executable, "-m", "edgefuse", command, *arguments, "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed, _ = process.communicate()
        except KeyboardInterrupt:
            process.wait()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    answer: Figures = json.loads(printed)
    return answer


def in_fresh_process(
    function: Callable[..., Any], *, environment: Mapping[str, str] | None = None, **arguments: Any
) -> Any:
    """Call a function in a Python process of its own.

    Args:
        function: At the top level of a module that can be imported.
        environment: Variables besides those of this process.
        arguments: Keyword arguments of the function, as JSON.

    Returns:
        What it returned, as JSON.

    Raises:
        RuntimeError: It failed; the stderr of the process has the reason.
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
    for origin, cases in _by_origin(record.get("origins", {})).items():
        soc, date, commit = origin
        lines += ["", f"Measured {date} on {soc} at commit {commit}: {', '.join(cases)}."]
    return "\n".join(lines) + "\n"


def _by_origin(origins: Mapping[str, Figures]) -> dict[tuple[str, ...], list[str]]:
    grouped: dict[tuple[str, ...], list[str]] = {}
    for case, origin in origins.items():
        grouped.setdefault((origin["soc"], origin["date"], origin["commit"]), []).append(case)
    return grouped


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


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.encode())


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
