"""What each way of tuning costs in accuracy, and what it saves in memory and time.

all-MiniLM-L6-v2 on SST-2 (6,000 rows, 3 epochs, the 872 sentences of GLUE's development set) and
Banking77 (9,000 rows, 4 epochs, 3,080 test questions), through EdgeFuse's own commands. Each way
has its own learning rate: of the few in `learning_rates`, the one whose run with the first seed
is best on `valid`; that run and two more seeds are then scored on the test rows.

`fused+…` starts from the model at a quarter of its MLPs' width (`compress --tune-text`), `mpo`
from its matrices, embeddings among them, as matrix product operators at full bonds, `squeezed` from
what `edgefuse squeeze --max-drop 1.0 --budget 0.8` made of those (once, with its first seed; on
SST-2 with `--first-steps 600`, on Banking77 with `--learning-rate 1e-4`). That one has been trained
already, and is trained further like `mpo`, on SST-2 for one epoch, on Banking77 for two.

What it costs is measured apart, by one epoch over 800 rows with one thread, in turn with `full` of
the original model: `step_ms` (time in steps over their count) and `peak_rss_mib` (of the process,
300 rows evaluated at its end) are medians of three rounds, `step_ratio` and `peak_ratio` medians
of the ratios to `full` within a round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from benchmarks import harness
from benchmarks.data import first_rows, minilm, path_of

_SEEDS = (0, 1, 2)
_QUICK_ROWS = 600
_VALID_ROWS = 1000
_COST_ROWS, _COST_VALID_ROWS, _COST_ROUNDS = 800, 300, 3


@dataclass(frozen=True)
class Task:
    """A data set, and how a model is trained on it.

    Attributes:
        rows: To train on.
        epochs: Count of epochs of every way, but for a squeezed model.
        squeeze: Further options of `squeeze`.
        further_epochs: Count of epochs of a squeezed model, which was trained while it was
            squeezed.
        further_rates: Learning rates of a squeezed model to choose from.
    """

    rows: int
    epochs: int
    squeeze: tuple[str, ...]
    further_epochs: int
    further_rates: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        tune: What `export --tune` is given.
        rates: Learning rates to choose from; None for a squeezed model, whose rates and epochs the
            task says.
        source: Makes the model to export, in a folder that has train.jsonl and valid.jsonl, for a
            task; None for the original.
        options: Further options of `export`, {train} being the training rows' file.
    """

    tune: str
    rates: tuple[float, ...] | None
    source: Callable[[Path, Task], str] | None = None
    options: tuple[str, ...] = ()


def _make(output: Path, command: str, model: str, *options: str) -> str:
    """Run a command that makes a folder, unless it was made before an interruption."""
    if not output.exists():
        harness.edgefuse(command, model, str(output), *options)
    return str(output)


def _fused(work: Path, _task: Task) -> str:
    quarter = ("--ratio", "0.25", "--tune-text", str(work / "train.jsonl"))
    return _make(work / "fused", "compress", minilm(), *quarter)


def _decomposed(work: Path, _task: Task) -> str:
    all_matrices = ("--method", "mpo", "--matrices", "mlp,attention,embeddings", "--max-error", "0")
    return _make(work / "mpo", "compress", minilm(), *all_matrices)


def _squeezed(work: Path, task: Task) -> str:
    data = ("--train", str(work / "train.jsonl"), "--valid", str(work / "valid.jsonl"))
    options = ["--max-drop", "1.0", "--budget", "0.8", *task.squeeze]
    if (work / "squeezed.squeezing").exists():
        options.append("--resume")
    return _make(work / "squeezed", "squeeze", _decomposed(work, task), *data, *options)


_TASKS = {
    "sst2": Task(
        6000, 3, squeeze=("--first-steps", "600"), further_epochs=1, further_rates=(2e-5, 5e-5)
    ),
    "banking77": Task(
        9000, 4, squeeze=("--learning-rate", "1e-4"), further_epochs=2, further_rates=(5e-5, 1e-4)
    ),
}
_ALL = (5e-5, 1e-4, 3e-4)
_LORA = (3e-4, 1e-3, 3e-3)
_FEW = (1e-3, 3e-3, 1e-2)
_ROWS = {
    "full": Row("full", _ALL),
    "full-without-embeddings": Row("full-without-embeddings", _ALL),
    "last-2": Row("last-2", _ALL),
    "head": Row("head", _FEW),
    "lora": Row("lora", _LORA),
    "mpo": Row("mpo", _ALL, _decomposed),
    "squeezed": Row("mpo", None, _squeezed),
    "adapter": Row("adapter", _FEW),
    "prefix": Row("prefix", _FEW),
    "child-f": Row("child-f", _ALL),
    "child-d": Row("child-d", _ALL, options=("--child-data", "{train}")),
    "bitfit": Row("bitfit", _FEW),
    "fused+full": Row("full", _ALL, _fused),
    "fused+lora": Row("lora", _LORA, _fused),
}


def measure(task: str, row: Row, case: harness.Case) -> harness.Figures:
    """A way at its best learning rate, and what it costs."""
    work, quick, recipe = case.work, case.quick, _TASKS[task]
    train = first_rows(
        work / "train.jsonl", f"{task}/train.jsonl", _QUICK_ROWS if quick else recipe.rows
    )
    valid = first_rows(work / "valid.jsonl", f"{task}/valid.jsonl", _VALID_ROWS)
    model = row.source(work, recipe) if row.source else minilm()
    if row.rates is None:
        rates, epochs = recipe.further_rates, recipe.further_epochs
    else:
        rates, epochs = row.rates, recipe.epochs

    @cache
    def bundle(seed: int) -> str:
        options = [option.format(train=train) for option in row.options]
        return _export(work / f"bundle-{seed}", model, task, row.tune, *options, seed=seed)

    @cache
    def run(rate: float, seed: int) -> dict[str, Any]:
        output = work / f"run-{rate}-{seed}"
        data = ("--train", str(train), "--valid", str(valid), "--seed", str(seed))
        how = ("--epochs", str(1 if quick else epochs), "--learning-rate", str(rate))
        begun = ("--resume",) if (output / "run.json").exists() else ()
        return harness.edgefuse("finetune", bundle(seed), str(output), *data, *how, *begun)

    rates = rates[1:2] if quick else rates
    best = max(rates, key=lambda rate: run(rate, 0)["figures"]["accuracy"])
    seeds = _SEEDS[:1] if quick else _SEEDS
    reports = [run(best, seed) for seed in seeds]
    tested = [
        harness.edgefuse(
            "evaluate", str(work / f"run-{best}-{seed}"), str(path_of(f"{task}/test.jsonl"))
        )
        for seed in seeds
    ]
    scores = [100 * one["figures"]["accuracy"] for one in tested]
    report = reports[0]
    return {
        "accuracy_mean": mean(scores),
        "accuracy_sd": stdev(scores) if len(scores) > 1 else None,
        "learning_rate": best,
        "learning_rates": list(rates),
        "valid_accuracy": 100 * report["figures"]["accuracy"],
        "parameters": report["parameters"],
        "trained_parameters": report["trained_parameters"],
        "seeds": len(seeds),
        **costs(task, bundle(0), work, rounds=1 if quick else _COST_ROUNDS),
    }


def costs(task: str, bundle: str, work: Path, *, rounds: int) -> harness.Figures:
    """What training a bundle takes, in turn with `full` of the original model."""
    train = first_rows(work / "cost-train.jsonl", f"{task}/train.jsonl", _COST_ROWS)
    valid = first_rows(work / "cost-valid.jsonl", f"{task}/valid.jsonl", _COST_VALID_ROWS)
    full = _export(work / "cost-full", minilm(), task, "full")

    def trained(bundle: str) -> harness.Figures:
        data = ("--train", str(train), "--valid", str(valid))
        once = ("--epochs", "1", "--threads", "1", "--overwrite")
        report = harness.edgefuse("finetune", bundle, str(work / "cost-run"), *data, *once)
        step_ms = 1000 * report["training_seconds"] / report["steps"]
        return {"step_ms": step_ms, "peak_rss_mib": report["peak_rss_mib"]}

    sides = {"this way": partial(trained, bundle), "full": partial(trained, full)}
    this, whole = harness.in_turn(sides, rounds=rounds).values()
    step_ms, whole_step_ms = ([one["step_ms"] for one in side] for side in (this, whole))
    peak, whole_peak = ([one["peak_rss_mib"] for one in side] for side in (this, whole))
    return {
        "peak_rss_mib": median(peak),
        "peak_ratio": harness.median_ratio(peak, whole_peak),
        "step_ms": median(step_ms),
        "step_ratio": harness.median_ratio(step_ms, whole_step_ms),
    }


def _export(output: Path, model: str, task: str, tune: str, *options: str, seed: int = 0) -> str:
    """Make a bundle for the task's labels."""
    labels = ("--labels", str(path_of(f"{task}/train.jsonl")))
    way = ("--tune", tune, "--device", "host", "--seed", str(seed))
    return _make(output, "export", model, *way, *labels, *options)


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
