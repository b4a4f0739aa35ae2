"""`edgefuse evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._fields import Given, with_fields
from edgefuse.cli._options import BundleOfRun, Json, RunOrBundle, Threads
from edgefuse.cli._output import print_json, print_table
from edgefuse.cli._progress import progress_bars
from edgefuse.report.table import Table
from edgefuse_runtime.tasks.registry import TASKS, evaluation_options_of, figures_as_text


@with_fields(options=[("", evaluation_options_of(task)) for task in TASKS])
def evaluate(
    model: RunOrBundle,
    data: Annotated[Path, typer.Argument(help="Rows of the task.")],
    *,
    options: Given,
    bundle: BundleOfRun = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the figures of the model's task on a data file: accuracy and macro-F1, say.

    The best epoch of a run is measured. A bundle is measured as it was exported, before any
    training.

        edgefuse evaluate run test.jsonl
    """
    with progress_bars() as on_progress:
        evaluation = edgefuse_runtime.evaluate(
            model, data, bundle=bundle, threads=threads, on_progress=on_progress, **options
        )
    if as_json:
        print_json(evaluation)
        return
    figures = {
        **figures_as_text(evaluation.task, evaluation.figures),
        "rows": evaluation.rows,
        "samples/s": f"{evaluation.samples_per_second:,.1f}",
    }
    print_table(Table.of(["what", "value"], figures.items()))
