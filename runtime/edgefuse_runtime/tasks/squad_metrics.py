"""Exact match and F1 of answers, as SQuAD's own evaluation defines them.

Definitions are those of SQuAD 2.0's evaluate-v2.0.py (Rajpurkar et al., arXiv 1806.03822). They are
those of 1.1 too (arXiv 1606.05250), but for answers of which normalisation leaves nothing.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """An answer in lower case, without ASCII punctuation, English articles and extra blanks."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Give 1 where a prediction is one of the answers once both are normalised, else 0.

    Args:
        prediction: The predicted answer; empty for none.
        answers: The right answers; none where there is no answer.
    """
    return float(normalize_answer(prediction) in _normalized(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the words that a prediction shares with an answer, the best over all answers.

    An empty prediction has 1 where there is no answer, and 0 else.

    Args:
        prediction: The predicted answer; empty for none.
        answers: The right answers; none where there is no answer.
    """
    words = normalize_answer(prediction).split()
    return max(_f1(words, answer.split()) for answer in _normalized(answers))


def _normalized(answers: Sequence[str]) -> list[str]:
    return [text for text in map(normalize_answer, answers) if text] or [""]


def _f1(words: Sequence[str], answer: Sequence[str]) -> float:
    if not words or not answer:
        return float(words == answer)
    same = (Counter(words) & Counter(answer)).total()
    return 2 * same / (len(words) + len(answer))
