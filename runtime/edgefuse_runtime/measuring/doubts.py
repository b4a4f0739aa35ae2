"""Why a measurement should not be compared with others: what disturbed it."""

from collections.abc import Iterable, Sequence

import numpy as np

_SPREAD = 0.10
"""Middle half of the steps' times over the median: an idle machine stays well below."""

_DRIFT = 0.05
"""What the second half's median may be away from the first's: two runs are to agree within it."""

_FEW = 20
"""Steps below which nothing is said of how they differ."""


def doubts(seconds: Sequence[float], throttled: Iterable[str]) -> list[str]:
    """Sentences on what disturbed a measurement; none where nothing is known to have.

    Args:
        seconds: Times of the steps that count, in their order.
        throttled: What held the processor back meanwhile.
    """
    found = [f"{reason} while steps were measured" for reason in sorted(throttled)]
    if len(seconds) < _FEW:
        return found
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    if (spread := (high - low) / middle) > _SPREAD:
        found.append(
            f"the middle half of the steps differs by {spread:.0%}: other programs ran, perhaps"
        )
    half = len(seconds) // 2
    first, second = np.median(seconds[:half]), np.median(seconds[half:])
    if abs(drift := float(second / first - 1)) > _DRIFT:
        found.append(
            f"steps became {'slower' if drift > 0 else 'faster'} by {abs(drift):.0%} "
            "from the first half to the second"
        )
    return found


__all__ = ["doubts"]
