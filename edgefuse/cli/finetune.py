"""`edgefuse finetune`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._options import BatchSize, Bundle, Json, Overwrite, Threads
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse_runtime.training.records import Report


def finetune(
    bundle: Bundle,
    run: Annotated[Path, typer.Argument(help="The run: the directory to make.")],
    train: Annotated[
        Path | None,
        typer.Option(help="Rows to train on: JSON lines, or CSV or TSV with a header."),
    ] = None,
    valid: Annotated[
        Path | None, typer.Option(help="Rows to evaluate on after every epoch.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.  [default: 3]")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Peak of the learning rate.  [default: by what trains, and the optimizer]"
        ),
    ] = None,
    warmup_ratio: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the steps in which the learning rate rises.  [default: 0.1]",
        ),
    ] = None,
    batch_size: BatchSize = None,
    gradient_accumulation_steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Batches in a step: their gradients are added up, which takes memory for one "
            "gradient more.  [default: 1]",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Seed of the shuffling, and of what is drawn at every step.  [default: 0]",
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps between checkpoints; every epoch ends with one too.  [default: 200]"
        ),
    ] = None,
    threads: Threads = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory that training may take, as 700MiB: it decides how many rows are computed "
            "at once, and which layers' insides are kept.  [default: what is free, at most half "
            "of the board's]",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Disk that training may take, as 2GiB, for what layers that do not change give "
            "for each row, where there are such layers: it is computed in the first epoch only, "
            "and removed at the end; 0 for nothing.  [default: half of what is free]",
        ),
    ] = None,
    max_temperature: Annotated[
        float | None,
        typer.Option(
            min=30,
            max=120,
            metavar="°C",
            help="Temperature that the machine shall not have: steps become slower within 5 °C of "
            "it, and pause at it until it is 5 °C cooler.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with an interrupted run, with its own data and settings."
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train a bundle on this machine.

    Ctrl-C saves the run and shows how to go on. A run that was killed goes on with --resume as
    well. It ends with the same weights as a run that never stopped.

        edgefuse finetune bundle run --train train.jsonl --valid valid.jsonl
    """
    from msgspec import structs

    from edgefuse.cli._signals import stop_on_signal
    from edgefuse.cli._sizes import parse_size
    from edgefuse.cli._training_progress import training_progress

    opened = edgefuse_runtime.open_bundle(bundle)
    given = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "warmup_ratio": warmup_ratio,
        "batch_size": batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "seed": seed,
        "save_every": save_every,
        "threads": threads,
    }
    before = edgefuse_runtime.read_run(run).settings if resume else None
    settings = structs.replace(
        before or edgefuse_runtime.TrainingSettings(),
        **{k: v for k, v in given.items() if v is not None},
    )
    figures = opened.manifest.task.figures
    with stop_on_signal() as stop, training_progress(settings.epochs, figures) as progress:
        report = edgefuse_runtime.finetune(
            opened,
            run,
            train=train,
            valid=valid,
            settings=settings,
            resume=resume,
            overwrite=overwrite,
            budget=None if memory is None else parse_size(memory, "--memory"),
            cache=None if cache is None else parse_size(cache, "--cache", least=0),
            max_temperature=max_temperature,
            observer=progress,
            on_plan=progress.show_plan,
            stop=stop,
        )
    if as_json:
        print_json(report)
    else:
        _show(report, run)


def _show(report: "Report", run: Path) -> None:
    from edgefuse_runtime.tasks.registry import figures_as_text

    figures: dict[str, object] = {
        **figures_as_text(report.task, report.figures),
        "best epoch": report.best_epoch,
        "steps": report.steps,
        "training time": f"{report.training_seconds:,.1f} s",
        "speed": f"{report.samples_per_second:,.1f} samples/s, "
        f"{report.tokens_per_second:,.0f} tokens/s",
        "peak memory": f"{report.peak_rss_mib:,.0f} MiB",
        "rows at once": report.rows_at_once,
        "model's parameters": f"{report.parameters:,}",
        "trained parameters": f"{report.trained_parameters:,}",
        "machine": f"{report.machine.soc}, {report.threads} threads",
        "engine": f"{report.engine} {report.engine_version}",
    }
    if report.highest_temperature:
        figures["temperature"] = f"{report.highest_temperature:.0f} °C at most"
    if report.rested_seconds:
        figures["rested"] = f"{report.rested_seconds:,.0f} s, because it was hot"
    if report.throttled:
        figures["held back"] = "; ".join(report.throttled)
    if report.row_cache_mib:
        figures["kept on the disk"] = f"{report.row_cache_mib:,.0f} MiB"
    print_table(Table.of(["what", "run"], figures.items()))
    path = shlex.quote(str(run))
    print_text(
        f"Try it:      edgefuse predict {path} TEXT",
        f"Convert it:  edgefuse convert {path} OUTPUT --to onnx",
    )
