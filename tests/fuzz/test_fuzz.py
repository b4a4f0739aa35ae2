"""Whatever is wrong with a file, a command refuses it in a sentence or does what is right.

2,000 cases of a fixed seed, or as many as `--cases` says. Each runs in a process with a gigabyte of
memory and a minute, and what it writes is watched.
"""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tests.fuzz import kinds
from tests.fuzz.kinds import HEAVY, LIGHT, Case

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

_USUAL = 2000
_AT_ONCE = 2
_SHOWN = 12
_NEEDS = {
    "bundle_with_wrong_digests": ("bundle", "rows.jsonl"),
    "bundle_with_right_digests": ("bundle", "rows.jsonl"),
    "manifest": ("bundle", "rows.jsonl"),
    "run_folder": ("bundle", "run", "whole", "rows.jsonl"),
    "rows": ("bundle", "rows.jsonl", "rows.csv"),
    "profile": ("board.toml",),
    "model": ("model",),
    "gguf": ("model.gguf",),
    "adapter": ("model", "adapter", "rows.jsonl"),
}

ALL = LIGHT | HEAVY

Kind = Callable[[Path, random.Random], Case]


class Worker:
    """A process that runs commands in forks of itself."""

    def __init__(self, *modules: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, case: Case, folder: Path) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        asked = {"arguments": [*case.arguments], "folder": str(folder)}
        self._process.stdin.write(f"{json.dumps(asked)}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fuzz.home import make_home  # noqa: PLC0415 - torch

    return make_home(tmp_path_factory.mktemp("home"))


def workers(*modules: str) -> Iterator["SimpleQueue[Worker]"]:
    queue: SimpleQueue[Worker] = SimpleQueue()
    all_of_them = [Worker(*modules) for _ in range(_AT_ONCE)]
    for worker in all_of_them:
        queue.put(worker)
    yield queue
    for worker in all_of_them:
        worker.close()


@pytest.fixture(scope="module")
def light() -> Iterator["SimpleQueue[Worker]"]:
    yield from workers(
        *("edgefuse_runtime.api", "edgefuse_runtime.training.finetune", "onnxruntime"),
        *("edgefuse_runtime.converting.convert", "edgefuse.cli._training_progress", "jinja2"),
    )


@pytest.fixture(scope="module")
def heavy() -> Iterator["SimpleQueue[Worker]"]:
    yield from workers(
        *("edgefuse.api", "edgefuse.compression.fusion_plan", "edgefuse.compression.methods.prune"),
        *("edgefuse.bundling.export", "edgefuse.hub.gguf_tokenizer", "gguf", "peft"),
        *("transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama"),
    )


def faults(
    kind: Kind, cases: int, home: Path, tmp_path: Path, free: "SimpleQueue[Worker]"
) -> list[str]:
    """What is wrong with each case that went wrong."""

    def one(index: int) -> str:
        folder = tmp_path / str(index) / "case"
        folder.mkdir(parents=True)
        kinds.copy(home, folder, _NEEDS[kind.__name__])
        canary = folder.parent / "outside"
        canary.mkdir()
        (canary / "canary").write_text("alive")
        case = kind(folder, random.Random(f"{kind.__name__} {index}"))
        before = seen(folder.parent, case)
        worker = free.get()
        try:
            done = worker.run(case, folder)
        finally:
            free.put(worker)
        fault = fault_of(case, folder, done)
        if not fault and seen(folder.parent, case) != before:
            fault = "it wrote where it may not"
        if fault:
            return f"{kind.__name__} {index}: {case.changed}, {' '.join(case.arguments)}: {fault}"
        shutil.rmtree(folder.parent)
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [fault for fault in pool.map(one, range(cases)) if fault]


def fault_of(case: Case, folder: Path, done: dict[str, Any]) -> str:
    """What is wrong with how a command ended; nothing if all is right."""
    said = done["err"].strip().rpartition("\n")[2]
    if done["code"] == 0:
        return case.judge(folder, done["out"])
    if done["code"] != 2:
        return f"it ended with {done['code']} after {done['seconds']:.1f} s: {said[-400:]}"
    if "Traceback" in done["err"] or not said.startswith("edgefuse: "):
        return f"it says no sentence: {said[-400:]}"
    return ""


def seen(folder: Path, case: Case) -> list[tuple[str, int, int]]:
    """Every file that a command may not write to: name, size and when it was written last."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if parts[0] == "case" and len(parts) > 1 and parts[1] in case.may_write:
            continue
        status = path.lstat()
        if not path.is_dir() or path.is_symlink():
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def share(cases: int, number: int) -> int:
    """How many of so many cases are a kind's, of which it has a number in 2,000."""
    return max(1, round(cases * number / _USUAL))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_what_is_wrong_is_refused_or_does_no_harm(
    kind: Kind, home: Path, tmp_path: Path, request: pytest.FixtureRequest, cases: int
) -> None:
    free = request.getfixturevalue("heavy" if kind in HEAVY else "light")
    found = faults(kind, share(cases, ALL[kind]), home, tmp_path, free)
    assert not found, "\n".join([f"{len(found)} faults:", *found[:_SHOWN]])


def test_the_cases_are_as_many_as_asked_for() -> None:
    numbers = ALL.values()
    assert sum(share(_USUAL, number) for number in numbers) == sum(numbers) == _USUAL
