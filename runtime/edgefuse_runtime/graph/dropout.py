"""The key of a step's dropout masks."""

import numpy as np
from numpy.typing import NDArray

DROPOUT_KEY = "dropout_key"
"""The input of train.onnx that its dropout masks are made of, int64 (2,); absent where nothing is
dropped."""


def dropout_key(seed: int, step: int, part: int) -> NDArray[np.int64]:
    """Two numbers below 2³² for the masks of a batch: a pure function of the arguments.

    Args:
        seed: Seed of the run.
        step: Index of the step.
        part: Index of the batch in the step.
    """
    return np.random.SeedSequence((seed, step, part)).generate_state(2).astype(np.int64)
