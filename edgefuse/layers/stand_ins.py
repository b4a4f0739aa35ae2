"""All layers that stand in for plain ones: put in, looked up, and made plain again."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.chains.modules import Chain, MPOEmbedding, MPOLinear
from edgefuse.layers.experts import DOWN, FusedExperts
from edgefuse.layers.fused import FusedConv1D, FusedLinear
from edgefuse.layers.low_rank import LowRankLinear

Fused = FusedLinear | FusedConv1D | FusedExperts
"""What stands in for a down-projection, or for a stack of experts, with P standalone."""

StandIn = Fused | LowRankLinear | MPOLinear | MPOEmbedding
"""What stands in for a plain layer."""


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Replace all that a compression put into a model, in place, by what computes the same.

    Chains and products of thin matrices become matrices, P is multiplied into W2. For inference
    only: folded, duplicated neurons no longer learn as they did under Adam. `save_pretrained` then
    writes what plain transformers reads, where all MLPs have one width and no experts left their
    stack to become chains.

    Args:
        model: Compressed in any way, or not at all.
    """
    _replace(model, lambda module: module.plain() if isinstance(module, StandIn) else None)


@torch.no_grad()
def merge_chains(model: nn.Module) -> None:
    """Replace every chain of a model by its matrix, in place; P stays standalone."""
    _replace(model, lambda module: module.merged() if isinstance(module, Chain) else None)


def put_multiplicity(model: nn.Module, name: str, multiplicity: Tensor) -> None:
    """Put P before a plain down-projection, in place: W2 trains, P stands alone.

    Args:
        model: Model with the plain W2.
        name: Name of W2 in the state dict.
        multiplicity: P (k,), or (E, k) for a stack of E experts.
    """
    path = name.rpartition(".")[0]
    layer = model.get_submodule(path)
    fused: nn.Module
    if isinstance(layer, nn.Linear):
        fused = FusedLinear.from_plain(layer, multiplicity)
    elif isinstance(layer, Conv1D):
        fused = FusedConv1D.from_plain(layer, multiplicity)
    else:
        fused = FusedExperts.from_plain(layer, multiplicity)
    model.set_submodule(path, fused)


def multiplicity_name(weight: str) -> str:
    """Name of P in a state dict, by that of W2: P beside `weight`, or beside a stack's W2."""
    path, _, attribute = weight.rpartition(".")
    return f"{path}.multiplicity" if attribute == "weight" else f"{weight}_multiplicity"


def multiplicities(model: nn.Module) -> dict[str, Tensor]:
    """Look up P of every fused MLP, by the name of its down-projection.

    Args:
        model: Any module.

    Returns:
        Such as `{"encoder.layer.0.output.dense": tensor([...])}`, of shape (k,), or (E, k) for a
        stack of E experts (`model.layers.0.mlp.experts.down_proj`); empty for an unfused model.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, FusedExperts):
            found[f"{name}.{DOWN}"] = module.multiplicity
        elif isinstance(module, Fused | MPOLinear) and module.multiplicity is not None:
            found[name] = module.multiplicity
    return found


def plain_tensor(model: nn.Module, name: str) -> Tensor:
    """Look up a tensor of the plain model's state dict, P folded in; the model may be fused."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    own = DOWN if isinstance(module, FusedExperts) else "weight"
    if isinstance(module, Fused) and attribute == own:
        return module.plain_weight()
    tensor: Tensor = getattr(module, attribute)
    return tensor


def places(model: nn.Module) -> dict[nn.Module, list[str]]:
    """All names of each module of a model: one that is shared has several."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def put(model: nn.Module, names: Iterable[str], module: nn.Module) -> None:
    """Put a module in all of these places."""
    for name in names:
        model.set_submodule(name, module)


def _replace(model: nn.Module, replacement: Callable[[nn.Module], nn.Module | None]) -> None:
    for module, names in places(model).items():
        other = replacement(module)
        if other is not None:
            put(model, names, other)
