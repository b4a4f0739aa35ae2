"""Experts out of their stack, a module each, so that their matrices can become chains."""

from torch import nn

from edgefuse.layers.separate_experts import Experts
from edgefuse.mlps.mlp import find_mlps


def unstack(model: nn.Module) -> None:
    """Take every stack of experts apart, in place; P goes with each expert.

    Args:
        model: Plain or fused model, whose weights may be on the meta device; they are shared, not
            copied.
    """
    stacks = {mlp.name.rpartition("[")[0] for mlp in find_mlps(model) if mlp.stack is not None}
    for name in stacks:
        model.set_submodule(name, Experts.from_plain(model.get_submodule(name)))
