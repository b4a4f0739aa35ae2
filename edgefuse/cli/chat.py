"""`edgefuse chat`."""

import signal
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._fields import Given, with_fields
from edgefuse.cli._options import BundleOfRun, RunOrBundle, Threads
from edgefuse.cli._output import print_piece
from edgefuse.cli._signals import stop_on_signal
from edgefuse_runtime.data.lines import typed_lines
from edgefuse_runtime.tasks.registry import CONVERSING_TASKS

_EXIT = "/exit"


@with_fields(options=[("", task.prediction_options) for task in CONVERSING_TASKS])
def chat(
    model: RunOrBundle,
    system: Annotated[
        str, typer.Option(help="What the model is told before the first message.")
    ] = "",
    *,
    options: Given,
    bundle: BundleOfRun = None,
    threads: Threads = None,
) -> None:
    """Talk with a language model: a line of standard input is a message, and an answer follows.

    The model's chat template says how it reads a conversation. Ctrl-C ends an answer; Ctrl-D, or a
    line /exit, ends the conversation. A run answers with its best epoch, and a bundle as it was
    exported.

        edgefuse chat run --temperature 0.7
    """
    predictor = edgefuse_runtime.Predictor(model, bundle=bundle, threads=threads)
    conversation = predictor.conversation(system=system, **options)
    for message in _messages():
        answer = closing(conversation.answer(message))
        with stop_on_signal(signal.SIGINT) as stopped, answer as pieces:
            for piece in pieces:
                print_piece(piece)
                if stopped():
                    break
        print_piece("\n")


def _messages() -> Iterator[str]:
    """Lines of standard input until it ends, without blank ones."""
    lines = _typed() if sys.stdin.isatty() else typed_lines(sys.stdin.buffer, "standard input")
    for line in lines:
        if line.strip() == _EXIT:
            return
        if line.strip():
            yield line


def _typed() -> Iterator[str]:
    """Lines that a person types."""
    import readline  # noqa: F401 - `input` lets its lines be edited then

    sys.stderr.write(f"Type a message a line, and end with Ctrl-D or {_EXIT}.\n")
    while True:
        try:
            yield input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return
