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
    tune: Annotated[
        list[str] | None,
        typer.Option(
            help="A way of tuning, as `export` takes it; may be given more than once.  "
            "[default: every one]",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in a step.")] = 16,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Tokens in a row.  [default: 128]", show_default=False),
    ] = None,
    optimizer: Optimizer = "adamw",
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Show what every way of tuning would cost a model, and whether it fits a board.

    For each choice of `export --tune`, with its own options: what trains, the memory of gradients
    and of the optimizer, what training is expected to hold at the most and how much that is of what
    the board has for it, and the multiplications and additions of a step's graph. Where a model
    cannot be tuned so, or does not fit, the reason. Training graphs are made for this, some seconds
    to a minute a way, and nothing is written.

        edgefuse plan fused --device rpi5 --tune lora
    """
    board = load_device(device)
    with progress_bars() as on_progress:
        found = edgefuse.plan(
            model,
            device=board,
            task=task,
            tune=tune or (),
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
                "training MiB",
                "of memory",
                "GFLOP a step",
            ),
            [
                (
                    way.way,
                    f"{way.trained_parameters:,}",
                    f"{way.trained_parameters / found.parameters:.1%}",
                    f"{way.gradient_bytes / _MIB:,.1f}",
                    f"{way.optimizer_bytes / _MIB:,.1f}",
                    f"{way.predicted_bytes / _MIB:,.0f}",
                    f"{way.predicted_bytes / found.available_bytes:.1%}",
                    f"{way.flops / 1e9:,.1f}",
                )
                for way in possible
            ],
            title=f"{found.model} ({found.parameters:,} parameters) on {board}: "
            f"{found.batch_size} rows of {found.sequence_length} tokens",
        )
    )
    print_text(
        "training: the most that a process is expected to hold, the bundle's files not counted, "
        "which the system reads again where it must. `edgefuse finetune` works it out from the "
        f"data's own lengths. Of memory: of the {found.available_bytes / _MIB:,.0f} MiB that "
        "training may take of the board's."
    )
    if keeping := [f"{way.kept_layers} for {way.way}" for way in possible if way.kept_layers]:
        print_text(f"Layers whose insides are kept in it, for speed: {', '.join(keeping)}.")
    engines = {
        way.engine: [one.way for one in possible if one.engine == way.engine] for way in possible
    }
    for engine, ways in engines.items():
        whose = "" if len(engines) == 1 else f" for {', '.join(ways)}"
        print_text(f"engine: {engine}{whose}, unless `edgefuse export --engine` names another.")
    if too_large := [way.way for way in possible if way.predicted_bytes > found.available_bytes]:
        print_text(
            f"Too large for the board: {', '.join(too_large)}. Fewer rows (--batch-size) and "
            "shorter ones (--sequence-length) take less."
        )
    for way in found.ways:
        if not way.possible:
            print_text(f"{way.way}: {way.reason}")
