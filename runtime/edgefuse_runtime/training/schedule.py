"""The learning rate of every step."""

import math


def learning_rate(step: int, *, peak: float, total_steps: int, warmup_ratio: float) -> float:
    """Linear warm-up from 0 to the peak, then linear decay to 0.

    The same line as transformers' `get_linear_schedule_with_warmup`.

    Args:
        step: Index of the step, from 0.
        peak: The highest learning rate.
        total_steps: Count of all steps.
        warmup_ratio: Share of the steps that warm up, from 0 to 1, rounded up to whole steps.
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * step / warmup
    return peak * (total_steps - step) / max(1, total_steps - warmup)
