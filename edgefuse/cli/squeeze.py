"""`edgefuse squeeze`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse
from edgefuse.cli._fields import Given, with_fields
from edgefuse.cli._next_export import next_export
from edgefuse.cli._options import Json, OutputDirectory, Overwrite, Task
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.cli._progress import progress_line
from edgefuse.report.table import Table
from edgefuse_export.tasks.registry import DEFAULT, WANTED_TASKS

if TYPE_CHECKING:
    from edgefuse.squeezing.record import SqueezeRecord


@with_fields(task_options=[("", task) for task in WANTED_TASKS])
def squeeze(
    model: Annotated[str, typer.Argument(help="What `compress --method mpo` made.")],
    output: OutputDirectory,
    train: Annotated[Path, typer.Option(help="Rows of the task to train on.")],
    valid: Annotated[Path, typer.Option(help="Rows of the task to measure on.")],
    *,
    task: Task = DEFAULT,
    task_options: Given,
    max_drop: Annotated[
        float,
        typer.Option(
            help="Hundredths of the task's first figure, as points of accuracy, that may be lost "
            "against the first round."
        ),
    ] = 1.0,
    budget: Annotated[
        float | None,
        typer.Option(
            help="End at this part of the parameters before any compression, even if more could go."
        ),
    ] = None,
    step: Annotated[
        float,
        typer.Option(
            help="Part of the chains' parameters that a round cuts, until one loses too much; then "
            "half of it, until the next does."
        ),
    ] = 0.1,
    first_steps: Annotated[
        int | None,
        typer.Option(
            help="Training steps before the first cut.  [default: three passes over the rows]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Training steps after a cut that loses too much.")
    ] = 200,
    batch_size: Annotated[int, typer.Option(help="Rows in a training step.")] = 16,
    learning_rate: Annotated[
        float, typer.Option(help="Peak of the learning rate in every round.")
    ] = 5e-5,
    auxiliary_rate: Annotated[
        float, typer.Option(help="What the learning rate of auxiliary tensors is multiplied by.")
    ] = 1.0,
    plot: Annotated[
        Path | None,
        typer.Option(help="Picture to draw of parameters and the figure, such as squeeze.svg."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the rows' order and of a new head.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was interrupted.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Cut the bonds of matrix product operators as far as a task allows.

    In rounds: bonds are cut where the task needs them least, and the task's first figure, accuracy
    say, is measured; where it fell too far, what `--tune mpo` trains is trained for some steps. The
    last model within --max-drop of the first round is written, with its head. It ends where the
    figure falls too far, or --budget is reached.

        edgefuse squeeze chains squeezed --train train.jsonl --valid valid.jsonl
    """
    from edgefuse.cli._signals import stop_on_signal

    settings = edgefuse.SqueezeSettings(
        max_drop=max_drop,
        budget=budget,
        step=step,
        first_steps=first_steps,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        auxiliary_rate=auxiliary_rate,
        seed=seed,
    )
    if plot is not None:
        from edgefuse.report.picture import check_picture

        check_picture(plot)
    with stop_on_signal() as stop, progress_line() as show:
        record = edgefuse.squeeze(
            model,
            output,
            task=task,
            train=train,
            valid=valid,
            settings=settings,
            resume=resume,
            overwrite=overwrite,
            on_progress=show,
            stop=stop,
            **task_options,
        )
    if plot is not None:
        from edgefuse.report.squeeze_plot import plot_squeeze

        plot_squeeze(record, plot)
    if as_json:
        print_json({"output": str(output), "squeeze": record})
    else:
        _show(record, output)


def _show(record: "SqueezeRecord", output: Path) -> None:
    before, measure = record.parameters_before, record.measure
    print_table(
        Table.of(
            ("round", "parameters", "of the plain model's", "trained", measure.title, ""),
            [
                (
                    index,
                    f"{one.parameters:,}",
                    f"{one.parameters / before:.0%}",
                    f"{one.steps} steps",
                    measure.text(one.figure),
                    "" if one.kept else "too bad, taken back",
                )
                for index, one in enumerate(record.rounds)
            ],
            title=f"{record.source}, squeezed",
        )
    )
    kept = record.rounds[record.kept]
    print_text(
        f"Parameters: {kept.parameters:,}, {kept.parameters / before:.0%} of the plain model's",
        f"{measure.title.capitalize()}: {measure.text(kept.figure)}, before cutting "
        f"{measure.text(record.rounds[0].figure)}",
    )
    if record.small_enough and len(record.rounds) == 1:
        print_text("Nothing was cut: it was within the budget already.")
    elif record.settings.budget and not record.small_enough:
        print_text("The budget was not reached: a further cut costs too much, or is none.")
    print_text(
        f"Wrote {output}. Next:",
        f"  {next_export(output, record.task['name'], tune='mpo')}",
    )
