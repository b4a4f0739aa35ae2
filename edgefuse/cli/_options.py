"""Arguments and options that several commands share: one spelling and one help text each."""

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.cli._fields import listed
from edgefuse_export.tasks.registry import DEFAULT, WANTED_TASKS
from edgefuse_runtime.optimizers.registry import OPTIMIZERS
from edgefuse_runtime.tagged import name_of

_TASKS = listed(
    f"What the model learns; optimum's synonyms do too  [default: {DEFAULT}]",
    ((task.name, task.summary) for task in WANTED_TASKS),
)

Bundle = Annotated[Path, typer.Argument(help="The bundle that `edgefuse export` made.")]
RunOrBundle = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE|RUN", help="A run, of which the best epoch is used, or a bundle."
    ),
]
OutputDirectory = Annotated[Path, typer.Argument(help="The directory to make.")]

Task = Annotated[str, typer.Option(help=_TASKS, show_default=False)]
Optimizer = Annotated[
    str, typer.Option(help=f"The optimizer: {' or '.join(map(name_of, OPTIMIZERS))}.")
]
BundleOfRun = Annotated[
    Path | None,
    typer.Option("--bundle", help="The run's bundle, if it was moved."),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Rows in a batch.  [default: the bundle's]")
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads to compute with.  [default: the board's]")
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier call wrote there.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
