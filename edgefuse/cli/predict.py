"""`edgefuse predict`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgefuse.cli._options import BundleOfRun, Json, RunOrBundle, Threads
from edgefuse.cli._output import print_json, print_text, progress_bar


def predict(
    model: RunOrBundle,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to classify.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file of texts, one a line.")] = None,
    bundle: BundleOfRun = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Classify texts: arguments, a file, or standard input, one a line.

    Prints a line per text: label, probability and text, with tabs between. A run predicts with its
    best epoch, a bundle as it was exported.

        edgefuse predict run "turn the lamp on"
    """
    from edgefuse_devices.errors import DataError
    from edgefuse_runtime.data.batching import batches_per_epoch
    from edgefuse_runtime.data.texts import read_lines, split_lines
    from edgefuse_runtime.inference.model import InferenceModel
    from edgefuse_runtime.inference.predict import predict_texts
    from edgefuse_runtime.machine.threads import default_threads
    from edgefuse_runtime.training.trained import open_trained

    if texts and file:
        raise DataError("texts came as arguments and as --file", "Give one of them")
    if file:
        texts = read_lines(file)
    if not texts and sys.stdin.isatty():
        sys.stderr.write("Type a text a line and end with Ctrl-D.\n")
    texts = texts or split_lines(sys.stdin.buffer.read(), "standard input")
    opened, trained = open_trained(model, bundle=bundle)
    manifest = opened.manifest
    classifier = InferenceModel(
        opened, trained, threads=threads or default_threads(manifest.device)
    )
    batches = batches_per_epoch(len(texts), manifest.batch_size)
    with progress_bar("Predicting", batches) as advance:
        predictions = predict_texts(opened, classifier, texts, on_batch=lambda _: advance())
    if as_json:
        print_json({"predictions": predictions})
    else:
        print_text(*map(str, predictions))
