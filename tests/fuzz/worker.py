"""Runs commands in forks of one process, each within a limit of memory and time.

`python -m tests.fuzz.worker NAME…` imports what is named, and then reads a command a line, as JSON
with `arguments` and `folder`, and answers with what became of it, a line each.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from edgefuse.cli import main as command

_MEMORY = 1 << 30  # bytes beside what the process has before the fork
_SECONDS = 60
_SHOWN = 20_000


def main() -> None:
    """Answer until there is nothing more to do."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    _warm_up()
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(_run(asked["arguments"], asked["folder"])), flush=True)


def _warm_up() -> None:
    """Import what every command imports when it runs."""
    sys.argv = ["edgefuse", "devices", "list"]
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with suppress(SystemExit):
        command()
    sys.stdout.flush()
    os.dup2(answers, 1)


def _run(arguments: list[str], folder: str) -> dict[str, object]:
    begin = time.perf_counter()
    out, err = (os.memfd_create(name) for name in ("out", "err"))
    child = os.fork()
    if not child:
        _command(arguments, folder, out, err)
    _, status = os.waitpid(child, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "out": _content(out),
        "err": _content(err),
        "seconds": time.perf_counter() - begin,
    }


def _command(arguments: list[str], folder: str, out: int, err: int) -> NoReturn:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(folder)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_held() + _MEMORY, hard))
        signal.alarm(_SECONDS)
        sys.argv = ["edgefuse", *arguments]
        command()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _held() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) << 10


def _content(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    raw = os.read(file, 1 << 20)
    os.close(file)
    return raw.decode(errors="replace")[-_SHOWN:]


if __name__ == "__main__":
    main()
