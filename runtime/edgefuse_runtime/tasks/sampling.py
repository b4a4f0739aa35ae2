"""The choice of a token by its logit: the likeliest, or one that is drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Sampler:
    """Chooses the tokens of one text, one after another."""

    def __init__(
        self, temperature: float, top_k: int = 0, top_p: float = 1.0, *, seed: int | Sequence[int]
    ) -> None:
        """Begin a text.

        Args:
            temperature: What logits are divided by; 0 takes the likeliest token.
            top_k: Count of tokens to draw from; 0 for all.
            top_p: Share of the probability that the tokens to draw from have.
            seed: Seed of the drawing.
        """
        self._temperature, self._top_k, self._top_p = temperature, top_k, top_p
        self._generator = np.random.default_rng(seed)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Choose a token id.

        Args:
            logits: Logits of shape (vocabulary,).
        """
        if not self._temperature:
            return int(logits.argmax())
        chances = probabilities(logits, self._temperature, self._top_k, self._top_p)
        return int(self._generator.choice(len(chances), p=chances))


def probabilities(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """What each token is drawn with: temperature first, then the k likeliest, then the nucleus.

    The nucleus is the fewest of the likeliest tokens that have at least `top_p` of the probability
    (Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020, arXiv 1904.09751).
    """
    scores = logits.astype(np.float64) / temperature
    if 0 < top_k < len(scores):
        scores[scores < np.partition(scores, -top_k)[-top_k]] = -np.inf
    chances: NDArray[np.float64] = np.exp(scores - scores.max())
    chances /= chances.sum()
    if top_p < 1:
        order = np.argsort(-chances, kind="stable")
        before = np.cumsum(chances[order]) - chances[order]
        chances[order[before >= top_p]] = 0
        chances /= chances.sum()
    return chances
