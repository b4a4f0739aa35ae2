"""What export has to know of fused blocks."""

from torch import nn

from edgefuse.compression.fused_linear import FusedLinear
from edgefuse.compression.mlp import find_mlps
from edgefuse_export.module import FusedMLP


def fused_mlps(model: nn.Module) -> list[FusedMLP]:
    """Names of every fused block's tensors, bottom first; empty for an unfused model."""
    return [
        FusedMLP(
            up_weight=f"{block.up_name}.weight",
            up_bias=f"{block.up_name}.bias",
            down_weight=f"{block.down_name}.weight",
            multiplicity=f"{block.down_name}.multiplicity",
        )
        for block in find_mlps(model)
        if isinstance(block.down, FusedLinear)
    ]
