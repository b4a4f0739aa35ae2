"""The best answers in the windows of a context.

As `postprocess_qa_predictions` of transformers' examples: the logits of first and last token add up
to a span's score, the best of all windows wins, and a softmax over the 20 best gives probabilities.
Every span of a window is looked at, where transformers takes the 20 best starts and ends alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from edgefuse_runtime.tasks.answer_windows import Window

N_BEST = 20
LONGEST = 30
"""Most tokens of an answer."""

Logits = NDArray[np.float32]
"""Logits of a window's tokens to be the first, or the last, of the answer, (tokens,)."""


class Found(NamedTuple):
    """An answer that was found.

    Attributes:
        text: The part of the context; empty where the context has no answer.
        start: Index of its first character in the context.
        end: Index behind its last character.
        probability: Probability among the best answers.
    """

    text: str
    start: int
    end: int
    probability: float


_Span = tuple[int, int]
_NOWHERE: _Span = (0, 0)


class Search:
    """The best spans of a question's context, gathered window by window."""

    def __init__(self, context: str) -> None:
        """Begin with no window.

        Args:
            context: The whole context.
        """
        self.windows = 0
        self._context = context
        self._scores: dict[_Span, float] = {}
        self._null = np.inf

    def add(self, window: Window, start_logits: Logits, end_logits: Logits) -> None:
        """Look for answers in a window.

        Args:
            window: A window of the question, of which each comes once.
            start_logits: Logits of its tokens, and maybe of padding behind them.
            end_logits: Logits of the same tokens.
        """
        self.windows += 1
        null = float(start_logits[window.null]) + float(end_logits[window.null])
        self._null = min(self._null, null)
        for span, score in _best_spans(window, start_logits, end_logits):
            trimmed = self._trim(*span)
            if trimmed[0] < trimmed[1]:
                self._scores[trimmed] = max(score, self._scores.get(trimmed, -np.inf))
        best = sorted(self._scores.items(), key=_by_score)
        self._scores = dict(best[:N_BEST])

    def best(self, *, unanswerable: bool) -> Found:
        """The best answer of all windows.

        Args:
            unanswerable: Whether there may be none: where all windows say so with a higher score
                than the best answer's.
        """
        spans = sorted(self._scores.items(), key=_by_score)
        best = spans[0][0] if spans else _NOWHERE
        if unanswerable:
            if not spans or self._null > spans[0][1]:
                best = _NOWHERE
            spans = sorted([*spans, (_NOWHERE, self._null)], key=_by_score)
            kept = dict(spans[:N_BEST]) | {_NOWHERE: self._null}
        else:
            kept = dict(spans)
        scores = np.array([*kept.values()])
        shares = dict(zip(kept, np.exp(scores - scores.max(initial=-np.inf)), strict=True))
        probability = shares[best] / sum(shares.values()) if shares else 0.0
        return Found(self._context[slice(*best)], *best, float(probability))

    def _trim(self, start: int, end: int) -> _Span:
        """A span without the blanks at its ends, which some tokenizers join to words."""
        text = self._context[start:end]
        start += len(text) - len(text.lstrip())
        return start, start + len(text.strip())


def _by_score(entry: tuple[_Span, float]) -> float:
    return -entry[1]


def _best_spans(
    window: Window, start_logits: Logits, end_logits: Logits
) -> Iterator[tuple[_Span, float]]:
    """Spans of the context's characters with the highest scores, and these."""
    count = len(window.offsets)
    tokens = slice(window.first, window.first + count)
    longest = min(LONGEST, count)
    ends = np.pad(end_logits[tokens].astype(np.float64), (0, longest - 1), constant_values=-np.inf)
    # Row i has the scores of the spans that begin with token i, by the count of tokens after it.
    scores = start_logits[tokens].astype(np.float64)[:, None] + sliding_window_view(ends, longest)
    flat = scores.ravel()
    best = np.argsort(-flat, kind="stable")[:N_BEST]
    for first, more in zip(*np.divmod(best, longest), strict=True):
        if np.isfinite(scores[first, more]):
            start, end = window.offsets[first, 0], window.offsets[first + more, 1]
            yield (int(start), int(end)), float(scores[first, more])
