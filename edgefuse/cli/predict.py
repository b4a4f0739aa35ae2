"""`edgefuse predict`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._fields import Given, with_fields
from edgefuse.cli._options import BundleOfRun, Json, RunOrBundle, Threads
from edgefuse.cli._output import print_json, print_piece, print_text, progress_bars
from edgefuse_runtime.tasks.registry import TASKS


@with_fields(options=[("", task.prediction_options) for task in TASKS])
def predict(
    model: RunOrBundle,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="What to predict for.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="A file of texts, one a line.")] = None,
    *,
    options: Given,
    bundle: BundleOfRun = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Predict for texts: arguments, a file, or standard input, one text a line.

    Prints a line for each text: of a classifier label, probability and text, with tabs between. A
    model that writes prints its text as it comes. A run predicts with its best epoch, and a bundle
    as it was exported.

        edgefuse predict run "turn the lamp on"
    """
    from edgefuse_devices.errors import DataError
    from edgefuse_runtime.data.texts import read_lines, split_lines

    if texts and file:
        raise DataError("texts came as arguments and as --file", "Give one of them")
    if file:
        texts = read_lines(file)
    if not texts and sys.stdin.isatty():
        sys.stderr.write("Type a text a line and end with Ctrl-D.\n")
    texts = texts or split_lines(sys.stdin.buffer.read(), "standard input")
    predictor = edgefuse_runtime.Predictor(model, bundle=bundle, threads=threads)
    if predictor.streams and not as_json:
        for piece in predictor.stream(texts, **options):
            print_piece(piece)
        return
    with progress_bars() as on_progress:
        predictions = predictor.predict(texts, on_progress=on_progress, **options)
    if as_json:
        print_json({"predictions": predictions})
    else:
        print_text(*map(str, predictions))
