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
    """Measure accuracy and macro-F1 on labelled texts.

    Of a run, its best epoch is measured. A bundle is measured as it was exported, before any
    training.

        edgefuse evaluate run test.jsonl
    """
    from edgefuse_runtime.data.batching import batches_per_epoch
    from edgefuse_runtime.data.dataset import read_examples
    from edgefuse_runtime.data.tokenization import open_tokenizer, tokenize_examples
    from edgefuse_runtime.inference.evaluation import evaluate as core
    from edgefuse_runtime.inference.model import InferenceModel
    from edgefuse_runtime.machine.threads import default_threads
    from edgefuse_runtime.training.trained import open_trained

    opened, trained = open_trained(model, bundle=bundle)
    manifest = opened.manifest
    examples = tokenize_examples(open_tokenizer(opened), read_examples(data, manifest.labels))
    classifier = InferenceModel(
        opened, trained, threads=threads or default_threads(manifest.device)
    )
    batches = batches_per_epoch(len(examples.rows), manifest.batch_size)
    with progress_bar("Evaluating", batches) as advance:
        evaluation = core(classifier, examples, on_batch=lambda _: advance())
    if as_json:
        print_json(evaluation)
        return
    figures = {
        "accuracy": f"{evaluation.accuracy:.1%}",
        "macro-F1": f"{evaluation.macro_f1:.3f}",
        "loss": f"{evaluation.loss:.4f}",
        "rows": evaluation.rows,
        "samples/s": f"{evaluation.samples_per_second:,.1f}",
    }
    print_table(Table.of(["what", "value"], figures.items()))
