"""What a case of `benchmarks.tasks` is."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data import first_rows, path_of
from benchmarks.harness import Figures

Prepare = Callable[[Path, int], tuple[Path, Path]]
"""Writes at most so many training rows into a folder; gives files of training and test rows."""


@dataclass(frozen=True)
class Recipe:
    """How both sides train: AdamW and schedule as `edgefuse finetune` has them without options.

    Attributes:
        epochs: Passes over the training rows.
        learning_rate: Peak of the learning rate.
        batch_size: Rows in a step.
        length: Tokens that texts are cut to.
    """

    epochs: int
    learning_rate: float
    batch_size: int = 16
    length: int = 128


@dataclass(frozen=True)
class TaskCase:
    """A task with real data.

    Attributes:
        prepare: Makes the data, from EDGEFUSE_TEST_DATA.
        data: Files of EDGEFUSE_TEST_DATA that it makes them of.
        export: Options of `export` that say the task; {labels} is the file of all training rows.
        model: Gives the directory of the model.
        metric: Name of the figure that is compared.
        recipe: How both sides train.
        rows: Most training rows of a full run.
        pytorch: The same in PyTorch, at the top level of its module: it runs in a process of its
            own. Its keyword arguments are `model`, `train`, `test` (paths as text), `seed`,
            `threads`, the fields of the recipe, and what `options` has. It returns `metric`,
            `seconds` of training, and `rss_mib`, the peak of the process.
        options: Further arguments of `pytorch`.
        evaluate: Further options of `evaluate`.
        scale: Number that the metric is multiplied by, 100 for points.
    """

    prepare: Prepare
    data: tuple[str, ...]
    export: tuple[str, ...]
    model: Callable[[], str]
    metric: str
    recipe: Recipe
    rows: int
    pytorch: Callable[..., Figures]
    options: Figures
    evaluate: tuple[str, ...] = ()
    scale: float = 100.0


def parts_of(folder: str) -> Prepare:
    """The first training rows and all test rows of a folder of EDGEFUSE_TEST_DATA."""

    def prepare(work: Path, rows: int) -> tuple[Path, Path]:
        train = first_rows(work / "train.jsonl", f"{folder}/train.jsonl", rows)
        return train, path_of(f"{folder}/test.jsonl")

    return prepare
