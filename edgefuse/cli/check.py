"""`edgefuse check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._options import BundleOfRun, Json
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse_runtime.checking.health import Health


def check(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN|BUNDLE|MODEL", help="A run, a bundle, or a model's directory."),
    ],
    bundle: BundleOfRun = None,
    as_json: Json = False,
) -> None:
    """Read every byte of a run, a bundle or a model, and say what is whole.

    Checkpoints, bundles and a run's data are compared with their digests; a model has none, so that
    only what cannot be read shows. Nothing is written. Exits with 2 if something is broken or
    missing, and says what can be done.

        edgefuse check run
    """
    from edgefuse_devices.errors import InputError

    health = edgefuse_runtime.check(path, bundle=bundle)
    if as_json:
        print_json(health)
    else:
        _show(health, path)
    if not health.whole:
        lost = sum(file.is_lost for file in health.files)
        raise InputError(f"{lost} of {path} {'is' if lost == 1 else 'are'} not as written")


def _show(health: "Health", path: Path) -> None:
    rows = [(file.name, file.state, file.note) for file in health.files]
    state = "is whole" if health.whole else "is not whole"
    print_table(Table.of(("what", "state", ""), rows, title=f"{health.kind} {path} {state}"))
    print_text(*(f"{sentence}." for sentence in health.advice))
