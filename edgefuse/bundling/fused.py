"""The fused blocks of a model, by the names of their tensors."""

from torch import nn

from edgefuse.layers.stand_ins import multiplicities, multiplicity_name
from edgefuse.mlps.layout import Layout
from edgefuse.mlps.mlp import find_mlps
from edgefuse_export.fused_mlp import FusedMLP


def fused_mlps(model: nn.Module) -> list[FusedMLP]:
    """Find every fused block, bottom first; a stack of experts is one block.

    Args:
        model: Model, fused or not.
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
                multiplicity=multiplicity_name(weight),
            )
    return list(blocks.values())


def _neuron_axes(layout: Layout) -> dict[str, int]:
    axes = {}
    for role, slot in layout.slots().items():
        if role != "bias":
            axis = int((role == "down") != slot.transposed)
            axes[slot.name] = axis if slot.expert is None else axis + 1
    return axes
