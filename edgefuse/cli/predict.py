"""`edgefuse predict`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._fields import Given, with_fields
from edgefuse.cli._options import BundleOfRun, Json, RunOrBundle, Threads
from edgefuse.cli._output import print_json, print_piece, print_text
from edgefuse.cli._progress import progress_bars
from edgefuse_runtime.tasks.registry import TASKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgefuse_runtime.data.asked import Asked


@with_fields(options=[("", task.prediction_options) for task in TASKS])
def predict(
    model: RunOrBundle,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Texts to predict for; where the task reads several, rows as JSON objects.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Rows (.jsonl, .csv, .tsv), or texts, one a line."),
    ] = None,
    *,
    options: Given,
    bundle: BundleOfRun = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Predict for texts or rows: arguments, a file, or standard input, one a line.

    Prints what it makes of each, in their order. A model that writes prints its text as it comes. A
    run predicts with its best epoch, and a bundle as it was exported.

        edgefuse predict run "turn the lamp on"
    """
    asked = _asked(texts, file)
    predictor = edgefuse_runtime.Predictor(model, bundle=bundle, threads=threads)
    if predictor.streams and not as_json:
        for piece in predictor.stream(asked, **options):
            print_piece(piece)
        return
    with progress_bars() as on_progress:
        predictions = predictor.predict(asked, on_progress=on_progress, **options)
    if as_json:
        print_json({"predictions": predictions})
    else:
        print_text(*map(str, predictions))


def _asked(texts: list[str] | None, file: Path | None) -> "Sequence[Asked]":
    from edgefuse_devices.errors import DataError
    from edgefuse_runtime.data.asked import read_asked
    from edgefuse_runtime.data.lines import split_lines

    if texts and file:
        raise DataError("texts came as arguments and as --file", "Give one of them")
    if file:
        return read_asked(file)
    if texts:
        return texts
    if sys.stdin.isatty():
        sys.stderr.write("Type a text a line and end with Ctrl-D.\n")
    return split_lines(sys.stdin.buffer, "standard input")
