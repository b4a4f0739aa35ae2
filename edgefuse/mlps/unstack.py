"""Experts out of their stack, a module each, so that their matrices can become chains."""

from torch import Tensor, nn

from edgefuse.layers.fused import FusedLinear, p_of_stack, put_beside
from edgefuse.layers.plain import linear_of
from edgefuse.layers.separate_experts import Expert, Experts
from edgefuse.mlps.mlp import MLP, find_mlps


def unstack(model: nn.Module) -> None:
    """Replace every stack of experts, in place; P goes with each expert.

    Args:
        model: Plain or fused; its weights may be on the meta device. They are shared, not copied.
    """
    put_beside(model)
    stacks: dict[str, list[MLP]] = {}
    for mlp in find_mlps(model):
        if mlp.stack is not None:
            stacks.setdefault(mlp.name.rpartition("[")[0], []).append(mlp)
    for name, mlps in stacks.items():
        model.set_submodule(name, Experts([_expert(model.get_submodule(name), m) for m in mlps]))


def _expert(stack: nn.Module, mlp: MLP) -> Expert:
    assert mlp.expert is not None

    def matrix(name: str) -> Tensor:
        tensor: Tensor = getattr(stack, name.rpartition(".")[2]).detach()[mlp.expert]
        return tensor.T if mlp.layout.down.transposed else tensor

    down = linear_of(matrix(mlp.layout.down.name), None)
    p = getattr(stack, p_of_stack("down_proj"), None)
    if p is not None:
        down = FusedLinear(down.weight.detach(), None, p[mlp.expert, 0])
    up = linear_of(matrix(mlp.layout.up.name), None)
    return Expert(up, down, mlp.activation, gated=mlp.gated)
