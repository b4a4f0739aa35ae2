"""A trained compressed model made plain."""

from torch import nn

from edgefuse.layers import fused as fused_linear
from edgefuse.mlps import low_rank
from edgefuse.mlps.matrices import merge_chains


def fold(model: nn.Module) -> None:
    """Replace all that a compression put into a model, in place, by what computes the same.

    Chains and products of thin matrices become matrices, P is multiplied into W2. For inference
    only: folded, duplicated neurons no longer learn as they did under Adam. `save_pretrained` then
    writes what plain transformers reads, where all MLPs have one width and no experts left their
    stack to become chains.

    Args:
        model: Compressed in any way, or not at all.
    """
    merge_chains(model)
    low_rank.fold(model)
    fused_linear.fold(model)
