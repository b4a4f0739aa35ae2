"""The fused blocks of a model, by the names of their tensors."""

from torch import nn

from edgefuse.layers.fused import multiplicities, p_of_stack
from edgefuse.mlps.layout import Layout
from edgefuse.mlps.mlp import find_mlps
from edgefuse_export.fused_mlp import FusedMLP


def fused_mlps(model: nn.Module) -> list[FusedMLP]:
    """Find every fused block, bottom first; a stack of experts is one block.

    Args:
        model: A model, fused or not, in which P of a stack is beside its W2.
    """
    fused = multiplicities(model)
    blocks: dict[str, FusedMLP] = {}
    for mlp in find_mlps(model) if fused else ():
        weight = mlp.layout.down.name
        down = weight.removesuffix(".weight")
        if down in fused:
            blocks[weight] = FusedMLP(
                neuron_axes=_neuron_axes(mlp.layout),
                down_weight=weight,
                multiplicity=f"{down}.multiplicity" if mlp.stack is None else p_of_stack(down),
            )
    return list(blocks.values())


def _neuron_axes(layout: Layout) -> dict[str, int]:
    axes = {}
    for role, slot in layout.slots().items():
        if role != "bias":
            axis = int((role == "down") != slot.transposed)
            axes[slot.name] = axis if slot.expert is None else axis + 1
    return axes
