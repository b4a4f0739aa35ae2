"""What export has to know of fused blocks."""

from torch import nn

from edgefuse.compression.fused_linear import FusedLinear, multiplicities
from edgefuse.compression.mlp import find_mlps
from edgefuse_devices.errors import ModelError
from edgefuse_export.module import FusedMLP


def fused_mlps(model: nn.Module) -> list[FusedMLP]:
    """Names of every fused block's tensors, bottom first; empty for an unfused model.

    Raises:
        ModelError: A fused MLP has a gate, or keeps its down-projection in no `nn.Linear`: the
            gradient's norm in the exported graph weighs the rows of dense ones only.
    """
    fused = multiplicities(model).keys()
    if not fused:
        return []
    names = []
    for mlp in find_mlps(model):
        down = mlp.layout.down.name.removesuffix(".weight")
        if down not in fused:
            continue
        if mlp.gated or not isinstance(model.get_submodule(down), FusedLinear):
            raise ModelError(
                f"The fused MLP {mlp.name} has {'a gate' if mlp.gated else 'a transposed matrix'}, "
                "and such cannot be exported",
                "Export the model without compressing it, or use an encoder such as BERT",
            )
        names.append(
            FusedMLP(
                up_weight=mlp.layout.up.name,
                up_bias=mlp.layout.up_bias.name if mlp.layout.up_bias else None,
                down_weight=mlp.layout.down.name,
                multiplicity=f"{down}.multiplicity",
            )
        )
    return names
