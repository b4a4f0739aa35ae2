"""What each way of tuning costs in accuracy, and what it saves in memory and time.

all-MiniLM-L6-v2 on SST-2 (6,000 rows, 3 epochs, the 872 sentences of GLUE's development set) and
Banking77 (9,000 rows, 4 epochs, 3,080 test questions), through EdgeFuse's own commands. Each way
has its own learning rate: of the few in `learning_rates`, the one whose run with the first seed
is best on `valid`; that run and two more seeds are then scored on the test rows.

`fused+…` starts from the model at a quarter of its MLPs' width (`compress --tune-text`), `mpo`
from its matrices, embeddings among them, as matrix product operators at full bonds, `squeezed` from
what `edgefuse squeeze --max-drop 1.0 --budget 0.8` made of those (once, with its first seed). That
one has been trained already, and is trained further like `mpo` for one epoch.
`step_ms` is the time in steps over their count, `peak_rss_mib` that of the process that trained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import harness
from benchmarks.data import first_rows, minilm, path_of

_SEEDS = (0, 1, 2)
_QUICK_ROWS = 600
_VALID_ROWS = 1000


@dataclass(frozen=True)
class Task:
    """A data set and what is the same for all ways."""

    rows: int
    epochs: int


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        tune: What `export --tune` is given.
        rates: Learning rates to choose from.
        source: Makes the model to export in a folder, from the training rows' file and those of
            `valid`; None for the original.
        options: Further options of `export`, {train} being the training rows' file.
        epochs: If not those of the task.
    """

    tune: str
    rates: tuple[float, ...]
    source: Callable[[Path, Path, Path], str] | None = None
    options: tuple[str, ...] = ()
    epochs: int | None = None


def _make(output: Path, command: str, model: str, *options: str) -> str:
    """Run a command that makes a folder, unless it was made before an interruption."""
    if not output.exists():
        harness.edgefuse(command, model, str(output), *options)
    return str(output)


def _fused(work: Path, train: Path, _valid: Path) -> str:
    quarter = ("--ratio", "0.25", "--tune-text", str(train))
    return _make(work / "fused", "compress", minilm(), *quarter)


def _decomposed(work: Path, _train: Path, _valid: Path) -> str:
    all_matrices = ("--method", "mpo", "--matrices", "mlp,attention,embeddings", "--max-error", "0")
    return _make(work / "mpo", "compress", minilm(), *all_matrices)


def _squeezed(work: Path, train: Path, valid: Path) -> str:
    options = ["--train", str(train), "--valid", str(valid), "--max-drop", "1.0", "--budget", "0.8"]
    if (work / "squeezed.squeezing").exists():
        options.append("--resume")
    return _make(work / "squeezed", "squeeze", _decomposed(work, train, valid), *options)


_TASKS = {"sst2": Task(6000, 3), "banking77": Task(9000, 4)}
_ALL = (5e-5, 1e-4, 3e-4)
_LORA = (3e-4, 1e-3, 3e-3)
_FEW = (1e-3, 3e-3, 1e-2)
_FURTHER = (2e-5, 5e-5)
_ROWS = {
    "full": Row("full", _ALL),
    "full-without-embeddings": Row("full-without-embeddings", _ALL),
    "last-2": Row("last-2", _ALL),
    "head": Row("head", _FEW),
    "lora": Row("lora", _LORA),
    "mpo": Row("mpo", _ALL, _decomposed),
    "squeezed": Row("mpo", _FURTHER, _squeezed, epochs=1),
    "adapter": Row("adapter", _FEW),
    "prefix": Row("prefix", _FEW),
    "child-f": Row("child-f", _ALL),
    "child-d": Row("child-d", _ALL, options=("--child-data", "{train}")),
    "bitfit": Row("bitfit", _FEW),
    "fused+full": Row("full", _ALL, _fused),
    "fused+lora": Row("lora", _LORA, _fused),
}


def measure(task: str, row: Row, quick: bool) -> harness.Figures:  # noqa: FBT001 - a harness.Measure
    """A way at its best learning rate."""
    work = harness.workplace()
    recipe, name = _TASKS[task], f"{task}/train.jsonl"
    train = first_rows(work / "train.jsonl", name, _QUICK_ROWS if quick else recipe.rows)
    valid = first_rows(work / "valid.jsonl", f"{task}/valid.jsonl", _VALID_ROWS)
    model = row.source(work, train, valid) if row.source else minilm()

    @cache
    def run(rate: float, seed: int) -> dict[str, Any]:
        output = work / f"run-{rate}-{seed}"
        options = [option.format(train=train) for option in row.options]
        options += ["--tune", row.tune, "--labels", str(path_of(name))]
        seeded = ("--device", "host", "--seed", str(seed))
        bundle = _make(work / f"bundle-{seed}", "export", model, *options, *seeded)
        data = ("--train", str(train), "--valid", str(valid), "--seed", str(seed))
        epochs = ("--epochs", str(1 if quick else row.epochs or recipe.epochs))
        learning_rate = ("--learning-rate", str(rate))
        begun = ("--resume",) if output.exists() else ()
        return harness.edgefuse(
            "finetune", bundle, str(output), *data, *epochs, *learning_rate, *begun
        )

    rates = row.rates[1:2] if quick else row.rates
    best = max(rates, key=lambda rate: run(rate, 0)["accuracy"])
    seeds = _SEEDS[:1] if quick else _SEEDS
    reports = [run(best, seed) for seed in seeds]
    tested = [
        harness.edgefuse("evaluate", str(work / f"run-{best}-{seed}"), str(_test(task)))
        for seed in seeds
    ]
    scores = [100 * one["accuracy"] for one in tested]
    report = reports[0]
    return {
        "accuracy_mean": mean(scores),
        "accuracy_sd": stdev(scores) if len(scores) > 1 else None,
        "learning_rate": best,
        "learning_rates": list(rates),
        "valid_accuracy": 100 * report["accuracy"],
        "parameters": report["parameters"],
        "trained_parameters": report["trained_parameters"],
        "peak_rss_mib": max(one["peak_rss_mib"] for one in reports),
        "step_ms": 1000 * mean(one["training_seconds"] / one["steps"] for one in reports),
        "seeds": len(seeds),
    }


def _test(task: str) -> Path:
    return path_of(f"{task}/test.jsonl")


if __name__ == "__main__":
    harness.main(
        "tuning_ways",
        {
            f"{task}/{name}": partial(measure, task, row)
            for name, row in _ROWS.items()
            for task in _TASKS
        },
        description=__doc__,
        packages=("onnxruntime", "torch", "transformers", "peft"),
        inputs=[
            path_of(f"{t}/{part}.jsonl") for t in _TASKS for part in ("train", "valid", "test")
        ],
        quick=("sst2/full", "sst2/lora", "sst2/mpo"),
    )
