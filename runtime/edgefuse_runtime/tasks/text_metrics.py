"""How near texts are to good ones: exact match, chrF and BLEU, as sacrebleu defines them.

Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018, arXiv 1804.08771; Popović, "chrF:
character n-gram F-score for automatic MT evaluation", WMT 2015. Both are sums over all texts, so
that nothing is kept of a text. sacrebleu itself takes libraries that a board has no use for.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.tasks.task import Figure, Figures

FIGURES = (
    Figure(name="exact_match", title="exact match", format=".1%"),
    Figure(name="chrf", title="chrF", format=".1f"),
    Figure(name="bleu", title="BLEU", format=".1f"),
)

_CHARACTERS = 6
"""Longest n-gram of characters in chrF."""
_RECALL = 2
"""β of chrF: recall counts β² times as much as precision."""
_WORDS = 4
"""Longest n-gram of words in BLEU."""


class TextMetric:
    """Exact match (0 to 1), chrF and BLEU (0 to 100), gathered text by text."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self._texts = self._exact = 0
        self._chrf = np.zeros((_CHARACTERS, 3), np.int64)
        self._bleu = np.zeros((_WORDS, 2), np.int64)
        self._length = self._reference_length = 0

    def update(self, text: str, references: Sequence[str]) -> None:
        """Take a text.

        Args:
            text: The text that was written.
            references: At least one good text; the nearest of them counts.
        """
        self._texts += 1
        self._exact += text.strip() in {reference.strip() for reference in references}
        self._chrf += _nearest_characters(text, references)
        words, good = split_words(text), [split_words(reference) for reference in references]
        self._bleu += _matching_words(words, good)
        self._length += len(words)
        lengths = (len(reference) for reference in good)
        self._reference_length += min(lengths, key=lambda n: (abs(n - len(words)), n))

    def result(self) -> Figures:
        """The figures over all texts."""
        return {
            "exact_match": self._exact / self._texts,
            "chrf": 100 * _chrf(self._chrf),
            "bleu": 100 * self._bleu_score(),
        }

    def _bleu_score(self) -> float:
        """Geometric mean of the precisions, times the penalty of texts that are too short.

        A precision of nothing is 1/2 of one match, then 1/4 and so on (sacrebleu's `exp`).
        """
        if not self._bleu[:, 0].any() or not self._bleu[:, 1].all():
            return 0.0
        precisions, smoothed = [], 1.0
        for matches, count in self._bleu.tolist():
            smoothed = smoothed if matches else smoothed / 2
            precisions.append((matches or smoothed) / count)
        penalty = min(1.0, math.exp(1 - self._reference_length / self._length))
        return penalty * math.exp(sum(map(math.log, precisions)) / _WORDS)


def _nearest_characters(text: str, references: Sequence[str]) -> NDArray[np.int64]:
    """The counts of n-grams in the text, in the reference that is nearest to it, and in both.

    Returns:
        Counts of shape (n-gram lengths, 3).
    """
    own = _character_ngrams(text)
    counts = [
        np.array(
            [
                (mine.total() if other else 0, other.total(), (mine & other).total())
                for mine, other in zip(own, _character_ngrams(reference), strict=True)
            ]
        )
        for reference in references
    ]
    return max(counts, key=_chrf)


def _character_ngrams(text: str) -> list[Counter[str]]:
    """N-grams of characters, without spaces, of every length up to the longest."""
    characters = "".join(text.split())
    return [
        Counter(characters[i : i + n] for i in range(len(characters) - n + 1))
        for n in range(1, _CHARACTERS + 1)
    ]


def _chrf(counts: NDArray[np.int64]) -> float:
    """F of the mean precision and recall over the lengths of which both sides have n-grams."""
    both = counts[(counts[:, 0] > 0) & (counts[:, 1] > 0)]
    if not len(both):
        return 0.0
    precision, recall = np.mean(both[:, 2:] / both[:, :2], axis=0).tolist()
    if not precision + recall:
        return 0.0
    factor = _RECALL**2
    return float((1 + factor) * precision * recall / (factor * precision + recall))


def _matching_words(words: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """For each length the n-grams that a reference has too, as often as one has them, and all.

    Returns:
        Counts of shape (n-gram lengths, 2).
    """
    counts = []
    for n in range(1, _WORDS + 1):
        own = _word_ngrams(words, n)
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= _word_ngrams(reference, n)
        counts.append(((own & most).total(), own.total()))
    return np.array(counts)


def _word_ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


_SPLITS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # symbols stand alone
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # periods and commas, but in numbers
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash behind a number
)
_ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}


def split_words(text: str) -> list[str]:
    """Split a text into words as mteval-v13a does, sacrebleu's `13a`."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, replacement in _SPLITS:
        text = pattern.sub(replacement, text)
    return text.split()
