"""Two texts in one row of tokens: which token is of which text."""

import numpy as np
from numpy.typing import NDArray

TYPE_IDS = "token_type_ids"
"""The graph's input that tells the two texts of a row apart, int64 of shape (batch, tokens): 0 in
the first and 1 in the second. Models have it that embed token types."""


def random_token_types(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.int64]:
    """Draw a type for every token, as the graph's input `TYPE_IDS` takes them.

    Args:
        rng: Source of randomness.
        shape: (rows, tokens).
    """
    return rng.integers(2, size=shape, dtype=np.int64)
