"""What export has to know of fused blocks."""

from torch import nn

from edgefuse.compression.fused_linear import FusedLinear
from edgefuse.compression.mlp import find_mlps
from edgefuse_export.module import FusedMLP


def fused_mlps(model: nn.Module) -> list[FusedMLP]:
    """Names of every fused block's tensors, bottom first; empty for an unfused model."""
    fused = []
    for mlp in find_mlps(model):
        down = mlp.layout.down.name.removesuffix(".weight")
        if isinstance(model.get_submodule(down), FusedLinear):
            fused.append(
                FusedMLP(
                    up_weight=mlp.layout.up.name,
                    up_bias=mlp.layout.up_bias.name if mlp.layout.up_bias else None,
                    down_weight=mlp.layout.down.name,
                    multiplicity=f"{down}.multiplicity",
                )
            )
    return fused
