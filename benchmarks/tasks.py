"""Every task on real data: EdgeFuse beside PyTorch with the same recipe.

Both sides start from one model and train with the same epochs, learning rate, schedule, batch
size, length and order of rows, without dropout, in fresh processes, in turn; a round has a seed of
its own for head and order. `metric` and `pytorch_metric` are means over the rounds on the test
rows, in points where it is a share, a correlation or chrF; `fused_metric` is EdgeFuse's with the
model's MLPs at a quarter of their width (`compress --tune-text`), once. `time_ratio` (of all steps)
and `rss_ratio` (of the peak of the training process) are medians over the rounds of EdgeFuse's by
PyTorch's. A quick run has one round of one epoch, a few rows of each file, and no fused model.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import mean, median, stdev

from benchmarks import harness, sentence_encoders
from benchmarks.answer_finders import XQUAD
from benchmarks.data import minilm, path_of
from benchmarks.task_case import Recipe, TaskCase
from benchmarks.text_classifiers import MRPC, STSB
from benchmarks.text_generators import E2E
from benchmarks.token_classifiers import WNUT17

CASES: dict[str, TaskCase] = {
    "mrpc": MRPC,
    "stsb": STSB,
    "wnut17": WNUT17,
    "stsb-similarity": TaskCase(
        prepare=sentence_encoders.write_scores,
        data=("stsb/train.jsonl", "stsb/test.jsonl"),
        export=(
            *("--task", "sentence-similarity", "--problem-type", "regression"),
            *("--highest-score", str(sentence_encoders.HIGHEST_SCORE)),
        ),
        model=minilm,
        metric="spearman",
        recipe=Recipe(epochs=1, learning_rate=2e-5),
        rows=1000,
        pytorch=sentence_encoders.pytorch,
        options={"problem_type": "regression"},
    ),
    "banking77-similarity": TaskCase(
        prepare=sentence_encoders.write_intents,
        data=("banking77/train.jsonl", "banking77/test.jsonl"),
        export=("--task", "sentence-similarity"),
        model=minilm,
        metric="recall_at_1",
        recipe=Recipe(epochs=1, learning_rate=2e-5, batch_size=32, length=64),
        rows=1000,
        pytorch=sentence_encoders.pytorch,
        options={"problem_type": "ranking"},
    ),
    "xquad": XQUAD,
    "e2e": E2E,
}

_THREADS = 2
_ROUNDS = 3
_QUICK_ROWS = 160
_QUICK_TEST_ROWS = 128
_MODULES = (
    "task_case",
    "text_classifiers",
    "token_classifiers",
    "torch_training",
    "sentence_encoders",
    "answer_finders",
    "text_generators",
)


def measure(task: TaskCase, case: harness.Case) -> harness.Figures:
    """Both sides of a task, and EdgeFuse with a fused model."""
    work, rounds = case.work, 1 if case.quick else _ROUNDS
    train, test = task.prepare(work, _QUICK_ROWS if case.quick else task.rows)
    if case.quick:
        test = _first_lines(test, work / "few.jsonl", _QUICK_TEST_ROWS)
    model, fused = task.model(), str(work / "fused")
    if not (case.quick or Path(fused).exists()):
        quarter = ("--ratio", "0.25", "--tune-text", str(train))
        harness.edgefuse("compress", model, fused, *quarter)
    recipe = asdict(task.recipe) | ({"epochs": 1} if case.quick else {})

    def seeded(side: Callable[[int], harness.Figures]) -> Callable[[], harness.Figures]:
        seeds = count()
        return lambda: side(next(seeds))

    def edgefuse(model: str, name: str, seed: int) -> harness.Figures:
        return _edgefuse(task, recipe, (model, train, test), work / f"{name}-{seed}", seed)

    def pytorch(seed: int) -> harness.Figures:
        arguments: harness.Figures = {
            "model": model,
            "train": str(train),
            "test": str(test),
            "seed": seed,
            "threads": _THREADS,
            **recipe,
            **task.options,
        }
        figures: harness.Figures = harness.in_fresh_process(task.pytorch, **arguments)
        return figures

    sides = {
        "edgefuse": seeded(partial(edgefuse, model, "unfused")),
        "pytorch": seeded(pytorch),
    }
    measured = harness.in_turn(sides, rounds=rounds)
    if not case.quick:
        measured["fused"] = [edgefuse(fused, "fused", 0)]

    def column(side: str, key: str) -> list[float]:
        return [row[key] for row in measured[side]]

    metrics = {side: [task.scale * value for value in column(side, "metric")] for side in measured}
    return {
        "compared": task.metric,
        "metric": mean(metrics["edgefuse"]),
        "pytorch_metric": mean(metrics["pytorch"]),
        "fused_metric": mean(metrics["fused"]) if "fused" in metrics else None,
        "metric_sd": stdev(metrics["edgefuse"]) if rounds > 1 else None,
        "pytorch_metric_sd": stdev(metrics["pytorch"]) if rounds > 1 else None,
        "time_ratio": harness.median_ratio(
            column("edgefuse", "seconds"), column("pytorch", "seconds")
        ),
        "rss_ratio": harness.median_ratio(
            column("edgefuse", "rss_mib"), column("pytorch", "rss_mib")
        ),
        "seconds": median(column("edgefuse", "seconds")),
        "pytorch_seconds": median(column("pytorch", "seconds")),
        "rss_mib": median(column("edgefuse", "rss_mib")),
        "pytorch_rss_mib": median(column("pytorch", "rss_mib")),
        "rounds": rounds,
        **recipe,
    }


def _first_lines(file: Path, fewer: Path, count: int) -> Path:
    """Write the first lines of a file to another, whose path is returned."""
    with file.open(encoding="utf-8") as lines:
        fewer.write_text("".join(islice(lines, count)), encoding="utf-8")
    return fewer


def _edgefuse(
    task: TaskCase,
    recipe: harness.Figures,
    files: tuple[str, Path, Path],
    folder: Path,
    seed: int,
) -> harness.Figures:
    """Export, finetune and evaluate, by the commands that people type."""
    model, train, test = files
    bundle, run = f"{folder}-bundle", f"{folder}-run"
    options = [option.format(labels=path_of(task.data[0])) for option in task.export]
    sizes = ("--batch-size", str(recipe["batch_size"]), "--sequence-length", str(recipe["length"]))
    if not Path(bundle).exists():
        seeded = ("--device", "host", "--seed", str(seed))
        harness.edgefuse("export", model, bundle, *seeded, *sizes, *options)
    flags = ("epochs", "learning_rate")
    settings = [
        word for name in flags for word in (f"--{name.replace('_', '-')}", str(recipe[name]))
    ]
    report = harness.edgefuse(
        "finetune",
        *(bundle, run, "--train", str(train), "--seed", str(seed), "--threads", str(_THREADS)),
        *settings,
        *(["--resume"] if (Path(run) / "run.json").exists() else []),
    )
    evaluation = harness.edgefuse("evaluate", run, str(test), *task.evaluate)
    return {
        "metric": evaluation["figures"][task.metric],
        "seconds": report["training_seconds"],
        "rss_mib": report["peak_rss_mib"],
    }


if __name__ == "__main__":
    harness.main(
        "tasks",
        {name: partial(measure, task) for name, task in CASES.items()},
        description=__doc__,
        packages=(
            *("onnxruntime", "torch", "transformers", "scikit-learn", "scipy"),
            *("sacrebleu", "seqeval"),
        ),
        inputs=[
            *(Path(__file__).with_name(f"{module}.py") for module in _MODULES),
            *sorted({path_of(name) for task in CASES.values() for name in task.data}),
        ],
    )
