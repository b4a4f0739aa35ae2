"""`edgefuse doctor`."""

from pathlib import Path
from typing import TYPE_CHECKING

import edgefuse_runtime
from edgefuse.cli._options import Bundle, Json, Threads
from edgefuse.cli._output import print_json, print_table
from edgefuse.cli._progress import progress_line
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse_runtime.checking.diagnosis import Diagnosis
    from edgefuse_runtime.checking.replay import Replay

_MIB = 2**20


def doctor(bundle: Bundle, threads: Threads = None, as_json: Json = False) -> None:
    """Check that a bundle computes on this machine what torch did at export.

    Compares the files with their digests, the tokenizer's ids with those of the model's own, and
    loss, outputs and gradients of the certificate's batches with torch's. Nothing is written. Exits
    with 2 if the bundle has to be copied or exported again, or its engine to be installed, and
    with 1 if this machine computes something else.

        edgefuse doctor bundle
    """
    from edgefuse_devices.errors import InternalError

    with progress_line() as on_progress:
        diagnosis = edgefuse_runtime.doctor(bundle, threads=threads, on_progress=on_progress)
    if as_json:
        print_json(diagnosis)
    else:
        _show(diagnosis, bundle)
    if not diagnosis.healthy:
        raise InternalError(". ".join(diagnosis.problems), diagnosis.hint)


def _show(diagnosis: "Diagnosis", bundle: Path) -> None:
    machine = diagnosis.machine.title
    board = "the bundle's board" if diagnosis.is_board else f"not {diagnosis.board.title}"
    versions = f"Python {diagnosis.python_version}, EdgeFuse {diagnosis.edgefuse_version}"
    engine = f"{diagnosis.engine} {diagnosis.engine_version} ({diagnosis.exported_with} at export)"
    held = f"training is expected to hold {diagnosis.predicted_bytes / _MIB:,.0f} MiB"
    free = f"{diagnosis.available_bytes / _MIB:,.0f} MiB are free here"
    size = f"{diagnosis.file_bytes / _MIB:,.1f} MiB"
    rows = [
        ("machine", f"{machine} ({board}), {diagnosis.threads} threads"),
        ("versions", f"{engine}, {versions}"),
        ("memory", f"{held}; {free}"),
        ("files", f"{diagnosis.files} of {size}, none changed"),
        ("tokenizer", f"{diagnosis.texts} texts"),
        *((f"{one.shape[0]} × {one.shape[1]} tokens", _found(one)) for one in diagnosis.replays),
    ]
    state = "is healthy here" if diagnosis.healthy else "is not well here"
    print_table(Table.of(("what", "found"), rows, title=f"{bundle} {state}"))


def _found(one: "Replay") -> str:
    gradients = (
        f"{one.gradients} gradients by at most {one.worst_gradient_error:.1e} "
        f"({one.worst_gradient})"
        if one.gradients
        else f"the gradients' norm by {one.gradient_norm_error:.1e}"
    )
    return f"loss off by {one.loss_difference:.1e}, outputs by {one.output_error:.1e}, {gradients}"
