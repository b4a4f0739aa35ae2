"""Logits behind texts that go on: `python -m tests.arm64.writing BUNDLE…` prints JSON."""

import json
import sys
from pathlib import Path

import numpy as np

from edgefuse_runtime.bundle.bundle import open_bundle
from edgefuse_runtime.inference.model import InferenceModel

LENGTHS = (5, 6, 8)


def logits(bundle: Path) -> list[list[list[float]]]:
    """Logits behind two texts of so many tokens, each call going on from the one before."""
    opened = open_bundle(bundle)
    written = InferenceModel(opened, opened.trainable(), threads=1).continuation()
    ids = np.random.default_rng(0).integers(5, 50, (2, max(LENGTHS)))
    return [written(ids[:, :length].tolist()).tolist() for length in LENGTHS]


if __name__ == "__main__":
    print(json.dumps([logits(Path(bundle)) for bundle in sys.argv[1:]]))
