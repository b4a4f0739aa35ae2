"""`edgefuse plan`."""

from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse
from edgefuse.cli._fields import Given, with_fields
from edgefuse.cli._options import Json, Optimizer, Revision, Task
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.cli._progress import progress_bars
from edgefuse.report.table import Table
from edgefuse_devices.catalog import load_device
from edgefuse_export.tasks.registry import DEFAULT, WANTED_TASKS
from edgefuse_runtime.optimizers.registry import find_optimizer

if TYPE_CHECKING:
    from edgefuse.bundling.plan import Plan

_MIB = 2**20


@with_fields(task_options=[("", task) for task in WANTED_TASKS])
def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A compressed model's directory, any model's, a GGUF file, or a hub name."
        ),
    ],
    device: Annotated[
        str, typer.Option(help="The board: a name of `edgefuse devices`, or a profile's .toml.")
    ],
    *,
    task: Task = DEFAULT,
    task_options: Given,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in a step.")] = 16,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Tokens in a row.  [default: 128]", show_default=False),
    ] = None,
    optimizer: Optimizer = "adamw",
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Show what every way of tuning would cost a model.

    For each choice of `export --tune`, with its own options: what trains, the memory of gradients
    and of the optimizer, how much of what the board has for training they take together with the
    weights, and the multiplications and additions of a step's graph. Where a model cannot be tuned
    so, or does not fit, the reason.

        edgefuse plan fused --device rpi5
    """
    board = load_device(device)
    with progress_bars() as on_progress:
        found = edgefuse.plan(
            model,
            device=board,
            task=task,
            batch_size=batch_size,
            sequence_length=sequence_length,
            optimizer=find_optimizer(optimizer),
            revision=revision,
            on_progress=on_progress,
            **task_options,
        )
    if as_json:
        print_json(found)
    else:
        _show(found, board.title)


def _show(found: "Plan", board: str) -> None:
    possible = [way for way in found.ways if way.possible]
    print_table(
        Table.of(
            (
                "--tune",
                "trained",
                "of model",
                "gradients MiB",
                "optimizer MiB",
                "memory",
                "GFLOP a step",
            ),
            [
                (
                    way.way,
                    f"{way.trained_parameters:,}",
                    f"{way.trained_parameters / found.parameters:.1%}",
                    f"{way.gradient_bytes / _MIB:,.1f}",
                    f"{way.optimizer_bytes / _MIB:,.1f}",
                    f"{way.held_bytes / found.available_bytes:.1%}",
                    f"{way.flops / 1e9:,.1f}",
                )
                for way in possible
            ],
            title=f"{found.model} ({found.parameters:,} parameters) on {board}: "
            f"{found.batch_size} rows of {found.sequence_length} tokens",
        )
    )
    print_text(
        f"memory: weights, gradients and optimizer, of the {found.available_bytes / _MIB:,.0f} MiB "
        "that training may take of the board's. A batch comes on top: `edgefuse export` says how "
        "much."
    )
    engines = {
        way.engine: [one.way for one in possible if one.engine == way.engine] for way in possible
    }
    for engine, ways in engines.items():
        whose = "" if len(engines) == 1 else f" for {', '.join(ways)}"
        print_text(f"engine: {engine}{whose}, unless `edgefuse export --engine` names another.")
    if too_large := [way.way for way in possible if way.held_bytes > found.available_bytes]:
        print_text(f"Too large for the board before any batch: {', '.join(too_large)}.")
    for way in found.ways:
        if not way.possible:
            print_text(f"{way.way}: {way.reason}")
