"""`edgefuse demo`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.cli._fields import listed
from edgefuse.cli._options import Json, Overwrite
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.demo.fusing import Fusing
from edgefuse.demo.subjects import INTENTS, SUBJECTS, find_subject
from edgefuse.demo.writing import Writing
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgefuse.demo.outcome import Figures, Outcome
    from edgefuse.demo.writing_outcome import WritingOutcome

_MIB = 2**20
_TASKS = listed("What the model learns", ((one.task, one.title) for one in SUBJECTS))


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to make, with data and models in it.")
    ] = Path("demo-run"),
    *,
    task: Annotated[str, typer.Option(help=_TASKS)] = INTENTS.task,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Train on fewer rows, for one epoch: quicker, and less accurate."
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Walk through the whole job on a real model, offline, in about three minutes.

    Fine-tunes all-MiniLM-L6-v2 for a task on smart-home commands, unfused and fused, and compares
    the two. With --task text-generation, SmolLM2-135M-Instruct learns instead, by LoRA and layer by
    layer, and is compared with itself before.
    Every step is a command that you can type yourself.
    """
    from edgefuse.demo.board import BARRED
    from edgefuse.demo.walkthrough import prepare, run_step

    subject = find_subject(task)
    steps = prepare(output, subject, subject.quick if quick else subject.full, overwrite=overwrite)
    if not as_json:
        print_text(
            "Wrote a model, data and the commands that follow. "
            f"Look at them with: cd {quote(str(output))}"
        )
    for number, step in enumerate(steps, start=1):
        if not as_json:
            print_text("", f"[{number}/{len(steps)}] {step.title}", f"  $ {step.command}")
            if step.board and step.arguments[0] == "finetune":
                print_text(f"  (in a process that cannot import {', '.join(BARRED)})")
        run_step(output, step, silent=as_json)
    if isinstance(subject, Writing):
        _end_writing(subject, output, as_json=as_json)
    elif isinstance(subject, Fusing):
        _end_fusing(subject, output, as_json=as_json)


def _end_fusing(subject: Fusing, output: Path, *, as_json: bool) -> None:
    """Compare the fused model with the other."""
    from edgefuse.demo.outcome import read_outcome

    outcome = read_outcome(output, subject)
    if as_json:
        print_json(outcome)
    else:
        _show_outcome(outcome, subject, output)


def _end_writing(subject: Writing, output: Path, *, as_json: bool) -> None:
    """Compare the language model with itself before it learned."""
    from edgefuse.demo.writing_outcome import read_writing_outcome

    outcome = read_writing_outcome(output)
    if as_json:
        print_json(outcome)
    else:
        _show_writing(outcome, subject, output)


def _show_outcome(outcome: "Outcome", subject: Fusing, output: Path) -> None:
    (rows, tokens), measure = outcome.batch, outcome.measure
    figures: dict[str, Callable[[Figures], str]] = {
        f"{measure.title} on the test split": lambda of: measure.text(of.figure),
        "parameters": lambda of: f"{of.parameters:,}",
        "trained parameters": lambda of: f"{of.trained_parameters:,}",
        "fine-tuning": lambda of: f"{of.training_seconds:.0f} s",
        f"step of {rows} × {tokens} tokens": lambda of: f"{of.step_ms:.0f} ms",
        "peak memory of training": lambda of: f"{of.peak_rss_bytes / _MIB:,.0f} MiB",
    }
    print_text("")
    print_table(
        Table.of(
            ("", "before fusing", "after fusing"),
            [(name, of(outcome.before), of(outcome.after)) for name, of in figures.items()],
            title=f"all-MiniLM-L6-v2 learns {subject.title}",
        )
    )
    print_text(f"{outcome.measured_on} {outcome.threads} threads.")
    if outcome.onnx_figure is not None:
        reached = measure.text(outcome.onnx_figure)
        print_text(f"The converted model, in a bare ONNX Runtime session: {reached}.")
    ask = subject.ask.replace("{folder}", quote(str(output)))
    print_text(f"Try it: edgefuse predict {quote(str(output / 'fused-run'))} {ask}")


def _show_writing(outcome: "WritingOutcome", subject: Writing, output: Path) -> None:
    measure = outcome.measure
    print_text("")
    print_table(
        Table.of(
            ("", "value"),
            [
                (f"{measure.title} before, on the test split", measure.text(outcome.before)),
                (f"{measure.title} after", measure.text(outcome.after)),
                ("parameters", f"{outcome.parameters:,}"),
                ("trained parameters", f"{outcome.trained_parameters:,}"),
                ("fine-tuning", f"{outcome.training_seconds:.0f} s"),
                ("tokens/s", f"{outcome.tokens_per_second:,.0f}"),
                ("peak memory of training", f"{outcome.peak_rss_bytes / _MIB:,.0f} MiB"),
            ],
            title=f"SmolLM2-135M-Instruct learns {subject.title}",
        )
    )
    print_text(f"{outcome.measured_on} {outcome.threads} threads.")
    print_text(f"Try it: edgefuse predict {quote(str(output / 'run'))} {subject.ask}")
