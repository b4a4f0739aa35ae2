"""How far results may be from torch's: float32 sums in another order stay far below."""

import math

LOSS_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-3
"""Parts of the size where that is above 1: in a language model of 30 layers a token's hidden state
may be 23,000, where float32 holds no more than two digits behind the point."""
NORM_TOLERANCE = 1e-3
"""Part of the global norm of the gradients."""
GRADIENT_TOLERANCE = 1e-2
"""Part of the gradient's own size."""


def beyond_rounding(
    *,
    loss: float,
    loss_size: float,
    outputs: float,
    output_size: float = 1.0,
    worst_gradient: str,
    gradient: float,
    norm: float,
) -> str:
    """Name the first difference that no rounding explains, as the middle of a sentence.

    Args:
        loss: Difference of the loss.
        loss_size: The loss.
        outputs: Difference of the outputs.
        output_size: The largest of them.
        worst_gradient: The parameter whose gradient differs most.
        gradient: Difference of that gradient.
        norm: Difference of the gradients' norm.

    Returns:
        Words such as `loss differs from torch's by 0.1`; nothing where all is well.
    """
    for what, difference, tolerance in (
        ("loss", loss, LOSS_TOLERANCE * max(1.0, loss_size)),
        ("output", outputs, OUTPUT_TOLERANCE * max(1.0, output_size)),
        (f"gradient of {worst_gradient}", gradient, GRADIENT_TOLERANCE),
        ("gradients' norm", norm, NORM_TOLERANCE),
    ):
        if not difference <= tolerance:
            return f"{what} differs from torch's by {difference:.2g}"
    return ""


def nan_last(difference: float) -> float:
    """A key by which NaN is worse than any number."""
    return math.inf if math.isnan(difference) else difference
