"""What export has to know of fused blocks."""

from torch import nn

from edgefuse.compression.fused_linear import multiplicities
from edgefuse.compression.layout import Layout
from edgefuse.compression.mlp import find_mlps
from edgefuse_devices.errors import ModelError
from edgefuse_export.module import FusedMLP


def fused_mlps(model: nn.Module) -> list[FusedMLP]:
    """Names of every fused block's tensors, bottom first; empty for an unfused model.

    Raises:
        ModelError: A fused MLP is one of experts that lie in one stack.
    """
    fused = multiplicities(model).keys()
    if not fused:
        return []
    names = []
    for mlp in find_mlps(model):
        down = mlp.layout.down.name.removesuffix(".weight")
        if down not in fused:
            continue
        if mlp.stack is not None:
            raise ModelError(
                f"The experts of {mlp.name.partition('[')[0]} lie in one stack, and such cannot be "
                "exported once they are fused",
                "Export the model without compressing it, or use one without experts",
            )
        names.append(
            FusedMLP(
                neuron_axes=_neuron_axes(mlp.layout),
                down_weight=mlp.layout.down.name,
                multiplicity=f"{down}.multiplicity",
            )
        )
    return names


def _neuron_axes(layout: Layout) -> dict[str, int]:
    axes = {}
    for role, slot in layout.slots().items():
        if role != "bias":
            axes[slot.name] = int((role == "down") != slot.transposed)
    return axes
