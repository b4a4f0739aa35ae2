"""How long `edgefuse --help` takes, and Python's own start beside it, each in fresh processes."""

import subprocess
import sys
import time
from statistics import median

from benchmarks import harness

_HELP = [sys.executable, "-m", "edgefuse", "--help"]
_BARE = [sys.executable, "-c", "pass"]


def help_page(case: harness.Case) -> harness.Figures:
    """Seconds until the help page is printed."""
    rounds = 5 if case.quick else 25
    _seconds(_HELP)  # the first start after an installation writes bytecode
    sides = {"edgefuse --help": lambda: _seconds(_HELP), "python": lambda: _seconds(_BARE)}
    measured = harness.in_turn(sides, rounds=rounds)
    ours, bare = ([figures["seconds"] for figures in measured[side]] for side in sides)
    return {
        "seconds": median(ours),
        "slowest_seconds": max(ours),
        "python_seconds": median(bare),
        "rounds": rounds,
    }


def _seconds(command: list[str]) -> harness.Figures:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {"seconds": time.perf_counter() - begin}


if __name__ == "__main__":
    harness.main(
        "startup_time", {"help": help_page}, description=__doc__, packages=("typer", "rich")
    )
