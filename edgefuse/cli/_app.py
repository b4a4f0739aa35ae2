"""The root command: it lists the others and turns errors into one sentence and an exit code."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from edgefuse.cli import devices
from edgefuse.cli._output import prepare_streams, write_error
from edgefuse.cli._signals import heeding_signals
from edgefuse.cli.bench import bench
from edgefuse.cli.chat import chat
from edgefuse.cli.check import check
from edgefuse.cli.compress import compress
from edgefuse.cli.convert import convert
from edgefuse.cli.demo import demo
from edgefuse.cli.doctor import doctor
from edgefuse.cli.evaluate import evaluate
from edgefuse.cli.export import export
from edgefuse.cli.finetune import finetune
from edgefuse.cli.plan import plan
from edgefuse.cli.predict import predict
from edgefuse.cli.report import report
from edgefuse.cli.squeeze import squeeze
from edgefuse_devices import __version__
from edgefuse_devices.errors import OUT_OF_MEMORY, EdgeFuseError, InputError, Interrupted


class _Group(TyperGroup):
    """A group that carries Ctrl-C past typer, which would exit without a message."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted") from error


app = typer.Typer(
    name="edgefuse",
    cls=_Group,
    help="Fine-tune language models on small boards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(compress)
app.command()(squeeze)
app.command()(plan)
app.command()(export)
app.command()(finetune)
app.command()(evaluate)
app.command()(predict)
app.command()(chat)
app.command()(convert)
app.command()(bench)
app.command()(doctor)
app.command()(check)
app.command()(report)
app.command()(demo)
app.add_typer(devices.app, name="devices")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"edgefuse {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001 - its callback prints
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="EDGEFUSE_DEBUG", help="Show tracebacks and logs.")
    ] = False,
) -> None:
    """Fine-tune language models on small boards."""
    if debug:
        os.environ["EDGEFUSE_DEBUG"] = "1"
        logging.basicConfig(level=logging.DEBUG)
    else:
        os.environ.pop("EDGEFUSE_DEBUG", None)  # its value may be 0


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 for success, 1 for a mistake of EdgeFuse's, 2 for a mistake of the user's, 130 for
    an interruption, 143 for SIGTERM, 129 for SIGHUP.
    """
    prepare_streams()
    with heeding_signals():
        _run()


def _run() -> None:
    try:
        _refuse_other_encodings()
        app()
    except EdgeFuseError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        library = (error.name or "a library").partition(".")[0]
        _fail(
            f"{library} is not installed: this command is one for the workstation. "
            "Install it there with: pip install 'edgefuse[workstation]'",
            InputError.exit_code,
        )
    except KeyboardInterrupt:
        _fail("interrupted.", 130)
    except MemoryError:
        _fail(f"{'. '.join(OUT_OF_MEMORY)}.", InputError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence, not a traceback
        _fail(
            f"{type(error).__name__}: {error} (this is a mistake of ours: "
            "`edgefuse --debug …` shows where it comes from)",
            1,
        )


def _refuse_other_encodings() -> None:
    """Refuse names that are no text in this locale: records and libraries could not keep them.

    Raises:
        InputError: An argument, or the current folder's name, is not; or that folder is gone.
    """
    try:
        here = str(Path.cwd())
    except FileNotFoundError as error:
        raise InputError("the current folder is not there any more", "Change to another") from error
    for name in (*sys.argv[1:], here):
        try:
            name.encode()
        except UnicodeEncodeError as error:
            shown = name.encode(errors="backslashreplace").decode()
            raise InputError(
                f"the name {shown} is not {sys.getfilesystemencoding().upper()}",
                "Rename the file or folder",
            ) from error


def _fail(sentence: str, code: int) -> None:
    if os.environ.get("EDGEFUSE_DEBUG"):
        raise  # noqa: PLE0704 - called from an except clause
    write_error(f"edgefuse: {sentence}\n")
    sys.exit(code)
