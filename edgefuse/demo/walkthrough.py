"""The whole job on a real model, offline, as the commands that one would type."""

import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec

from edgefuse.demo.step import Size, Step
from edgefuse.demo.subject import Subject
from edgefuse_devices.errors import InternalError, Interrupted
from edgefuse_runtime.files.output import new_directory

SCRIPT = "walkthrough.sh"


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
        ModelError: What the demo needs is not installed.
        OutputError: The folder is not empty, or the disk is too small.
    """
    model = subject.model()
    steps = subject.plan(size)
    with new_directory(
        output, marker=SCRIPT, overwrite=overwrite, needed_bytes=subject.needed_bytes
    ) as folder:
        for name, rows in subject.rows(size.train, size.test).items():
            lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
            (folder / f"{name}.jsonl").write_bytes(lines)
        for path, file in model.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).symlink_to(file)
        script = "".join(f"\n# {step.title}\n{step.command}\n" for step in steps)
        (folder / SCRIPT).write_text(f"set -e\n{script}", encoding="utf-8")
    return steps


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
