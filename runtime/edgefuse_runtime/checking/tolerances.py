"""How far results may be from torch's: float32 sums in another order stay far below."""

import math

LOSS_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-3
NORM_TOLERANCE = 1e-3
"""Part of the global norm of the gradients."""
GRADIENT_TOLERANCE = 1e-2
"""Part of the gradient's own size."""


def beyond_rounding(
    *, loss: float, outputs: float, worst_gradient: str, gradient: float, norm: float
) -> str:
    """Name the first difference that no rounding explains, as the middle of a sentence.

    Args:
        loss: Difference of the loss.
        outputs: Difference of the outputs.
        worst_gradient: The parameter whose gradient differs most.
        gradient: Difference of that gradient.
        norm: Difference of the gradients' norm.

    Returns:
        Words such as `loss differs from torch's by 0.1`; nothing where all is well.
    """
    for what, difference, tolerance in (
        ("loss", loss, LOSS_TOLERANCE),
        ("output", outputs, OUTPUT_TOLERANCE),
        (f"gradient of {worst_gradient}", gradient, GRADIENT_TOLERANCE),
        ("gradients' norm", norm, NORM_TOLERANCE),
    ):
        if not difference <= tolerance:
            return f"{what} differs from torch's by {difference:.2g}"
    return ""


def nan_last(difference: float) -> float:
    """A key by which NaN is worse than any number."""
    return math.inf if math.isnan(difference) else difference
