"""Losses of some steps on random batches: `python -m tests.arm64.losses BUNDLE…` prints JSON."""

import json
import sys
from pathlib import Path

import numpy as np

from edgefuse_runtime.bundle.bundle import open_bundle, open_engine

STEPS = 5


def losses(bundle: Path) -> list[float]:
    """Train a bundle in memory; the batches are a function of the step alone."""
    opened = open_bundle(bundle)
    task, engine = opened.manifest.task, open_engine(opened, threads=1)
    vocabulary = np.arange(5, 50)
    batches = [
        task.random_feeds(np.random.default_rng(step), (4, 9), vocabulary, padded=True)
        for step in range(STEPS)
    ]
    return [engine.step(feeds, 1e-3).loss for feeds in batches]


if __name__ == "__main__":
    print(json.dumps([losses(Path(bundle)) for bundle in sys.argv[1:]]))
