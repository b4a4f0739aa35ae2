"""`edgefuse evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.cli._options import BundleOfRun, Json, RunOrBundle, Threads
from edgefuse.cli._output import print_json, print_table, progress_bar
from edgefuse.report.table import Table


def evaluate(
    model: RunOrBundle,
    data: Annotated[Path, typer.Argument(help='JSONL with "text" and "label".')],
    bundle: BundleOfRun = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the task's figures on labelled rows: accuracy, macro-F1 and loss.

    Of a run, its best epoch is measured. A bundle is measured as it was exported, before any
    training.

        edgefuse evaluate run test.jsonl
    """
    from edgefuse_runtime.data.batching import batches_per_epoch
    from edgefuse_runtime.inference.evaluation import evaluate_model
    from edgefuse_runtime.inference.model import InferenceModel
    from edgefuse_runtime.machine.threads import default_threads
    from edgefuse_runtime.tasks.registry import figures_as_text
    from edgefuse_runtime.training.trained import open_trained

    opened, trained = open_trained(model, bundle=bundle)
    manifest = opened.manifest
    dataset = opened.read(data)
    inference = InferenceModel(opened, trained, threads=threads or default_threads(manifest.device))
    batches = batches_per_epoch(len(dataset), manifest.batch_size)
    with progress_bar("Evaluating", batches) as advance:
        evaluation = evaluate_model(opened, inference, dataset, on_batch=lambda _: advance())
    if as_json:
        print_json(evaluation)
        return
    figures = {
        **figures_as_text(evaluation.task, evaluation.figures),
        "rows": evaluation.rows,
        "samples/s": f"{evaluation.samples_per_second:,.1f}",
    }
    print_table(Table.of(["what", "value"], figures.items()))
