"""Where the multiplicities of a fused model stand."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FusedMLP:
    """Names of a fused block's tensors in the model's state dict.

    Attributes:
        neuron_axes: Axis along which neurons lie, by the name of each of the block's tensors but
            b2: 0 for W1 (k, p), b1 (k,) and a gate's, 1 for W2 (p, k); one more in a stack of
            experts. Where gate and up are one matrix, neurons lie there twice over.
        down_weight: Name of W2.
        multiplicity: Name of P, of shape (k,), or (E, 1, k) of a stack of E experts.
    """

    neuron_axes: Mapping[str, int]
    down_weight: str
    multiplicity: str
