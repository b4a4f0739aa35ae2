"""Names of inputs and outputs in the graphs of a model in parts.

A layer's other inputs are its tensors, by their names in the layer, which have a dot or are none of
these; its other outputs are their gradients.
"""

HIDDEN = "hidden"
"""Input of a layer, (batch, sequence, hidden); of the exit, the last layer's output."""

OUTPUT = "output"
"""Output of a layer, of the same shape."""

OUTPUT_GRADIENT = "output_gradient"
"""The loss's gradient by a layer's output."""

TARGETS = "targets"
"""Token ids to learn, (tokens,), where tokens know nothing of each other."""

COUNT = "count"
"""Count of all tokens that a batch learns, float32."""


_CONTEXT = "context_"


def context_name(index: int) -> str:
    """Name of a tensor that layers share, such as a mask."""
    return f"{_CONTEXT}{index}"


def is_context(name: str) -> bool:
    """Whether an input is a tensor that layers share."""
    return name.startswith(_CONTEXT)


def kept_name(index: int) -> str:
    """Name of something of a layer's inside that is kept for the backward pass."""
    return f"kept_{index}"


def gradient_of(name: str) -> str:
    """Name of the gradient of an input or a tensor."""
    return f"gradient.{name}"
