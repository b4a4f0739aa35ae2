"""Rows of texts that belong together, or of two texts and how alike they are."""

import math
from pathlib import Path
from typing import NamedTuple

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.texts import field_of

RANKED_ROW = (
    'A row looks like {"anchor": "how do I get my money back?", "positive": "Returns and refunds"}'
)
SCORED_ROW = (
    'A row looks like {"text": "a plane lands", "text_pair": "a plane is landing", "score": 0.9}'
)


class RankedTexts(NamedTuple):
    """A text, and what it shall find.

    Attributes:
        place: File and line, as messages name it.
        anchor: The text, never blank.
        positive: A text that belongs to it.
        negative: A text that does not, though it may seem so; None where the row has none.
    """

    place: str
    anchor: str
    positive: str
    negative: str | None

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that there are, in this order."""
        pair = (self.anchor, self.positive)
        return pair if self.negative is None else (*pair, self.negative)


class ScoredTexts(NamedTuple):
    """Two texts, and how alike they are.

    Attributes:
        place: File and line, as messages name it.
        first: A text, never blank.
        second: The other one.
        score: Cosine that they shall have, from 0 to 1.
    """

    place: str
    first: str
    second: str
    score: float


def read_ranked(path: Path, *, negatives: bool) -> list[RankedTexts]:
    """Read rows with `anchor`, `positive` and, where rows may have one, `negative`.

    Args:
        path: A data file.
        negatives: Whether rows may have a `negative`.

    Raises:
        DataError: A row is broken, or has a `negative` where none is expected; the message names
            file and line.
    """
    return [_ranked(row, negatives=negatives) for row in read_rows(path, RANKED_ROW)]


def read_scored(path: Path, *, highest: float) -> list[ScoredTexts]:
    """Read rows with `text`, `text_pair` and `score`.

    Args:
        path: A data file.
        highest: Score of texts that say the same; scores are divided by it.

    Raises:
        DataError: A row is broken, or its score is outside 0 to `highest`; the message names file
            and line.
    """
    return [_scored(row, highest) for row in read_rows(path, SCORED_ROW)]


def _ranked(row: Row, *, negatives: bool) -> RankedTexts:
    if "anchor" not in row.fields and "score" in row.fields:
        raise DataError(
            f'{row.place} has a "score" and no "anchor"',
            "Rows with scores are learned by a bundle of `edgefuse export --problem-type "
            f"regression`. {RANKED_ROW}",
        )
    anchor, positive = (field_of(row, name, RANKED_ROW) for name in ("anchor", "positive"))
    if row.fields.get("negative") is None:
        return RankedTexts(row.place, anchor, positive, None)
    if not negatives:
        raise DataError(
            f'{row.place} has a "negative", and the bundle was exported for rows without',
            "Export with --negatives, or leave it out",
        )
    negative = field_of(row, "negative", RANKED_ROW)
    if negative == positive:
        raise DataError(
            f'{row.place} has one text as "positive" and "negative"', "Leave one of them out"
        )
    return RankedTexts(row.place, anchor, positive, negative)


def _scored(row: Row, highest: float) -> ScoredTexts:
    if "text" not in row.fields and "anchor" in row.fields:
        raise DataError(
            f'{row.place} has an "anchor" and no "score"',
            "Rows with anchors are learned by a bundle of `edgefuse export --problem-type "
            f"ranking`. {SCORED_ROW}",
        )
    first, second = (field_of(row, name, SCORED_ROW) for name in ("text", "text_pair"))
    return ScoredTexts(row.place, first, second, _score(row, highest))


def _score(row: Row, highest: float) -> float:
    given = row.fields.get("score")
    if given is None:
        raise DataError(f'{row.place} has no "score"', SCORED_ROW)
    try:
        score = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f'{row.place} has the "score" {given!r}, which is no number', SCORED_ROW)
    if not 0 <= score <= highest:
        raise DataError(
            f"{row.place} has the score {given}, outside 0 to {highest:g}",
            "Scores are divided by the one of texts that say the same: give `edgefuse export` "
            "that one, as --highest-score 5 for STS-B",
        )
    return score / highest
