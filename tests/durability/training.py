"""Trains a tiny bundle in a process that tests kill: `python -m tests.durability.training …`.

BUNDLE RUN TRAIN             train, or go on with the run that is there
BUNDLE RUN TRAIN KILLS SEED  do so in processes that are killed, that many times, at random
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.training import finetune as module
from edgefuse_runtime.training.run import TrainingSettings, is_run
from tests.tiny_bundle import FakeEngine

SETTINGS = TrainingSettings(epochs=2, learning_rate=0.3, save_every=4, threads=1)


def train(bundle: Path, run: Path, data: Path) -> None:
    """Train to the end, whatever is there."""
    module.open_engine = FakeEngine  # type: ignore[assignment]
    settings = None if is_run(run) else SETTINGS
    opened = open_bundle(bundle)
    module.finetune(opened, run, train=data, settings=settings, resume=is_run(run))


def train_through_kills(bundle: Path, run: Path, data: Path, *, kills: int, seed: int) -> None:
    """Train in forks of this process, each killed after a random part of what a run takes."""
    rng = random.Random(seed)
    begin = time.perf_counter()
    train(bundle, run.with_name("measured"), data)
    whole = time.perf_counter() - begin
    for _ in range(kills):
        child = os.fork()
        if not child:
            train(bundle, run, data)
            os._exit(0)
        time.sleep(rng.random() * whole)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    train(bundle, run, data)


if __name__ == "__main__":
    paths = [Path(name) for name in sys.argv[1:4]]
    if sys.argv[4:]:
        train_through_kills(*paths, kills=int(sys.argv[4]), seed=int(sys.argv[5]))
    else:
        train(*paths)
