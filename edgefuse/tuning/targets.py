"""The layers that low-rank updates go to, chosen by endings of their names."""

from collections.abc import Sequence
from shlex import quote

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.fused import FusedConv1D, FusedLinear
from edgefuse.tuning.parts import head_modules, head_names, is_head, is_pooler, scores_tokens
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.names import suggest

_ALL = "all-linear"
_LINEAR = [kind.forward for kind in (nn.Linear, Conv1D, FusedLinear, FusedConv1D)]


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Find the linear layers under the head, by name; a router that computes more is none."""
    return {
        name: module
        for name, module in model.named_modules()
        if _is_linear(module)
        and not is_head(model, f"{name}.weight")
        and not scores_tokens(model, f"{name}.weight")
        and not is_pooler(f"{name}.weight")
    }


def _is_linear(module: nn.Module) -> bool:
    """Whether a layer computes a product and no more; one with its own `forward` is tried out."""
    if type(module).forward in _LINEAR:
        return True
    if not isinstance(module, nn.Linear):
        return False
    x = torch.linspace(-1, 1, module.in_features, dtype=module.weight.dtype)
    with torch.no_grad():
        y, product = module(x[None]), F.linear(x[None], module.weight, module.bias)
    # A router such as PhiMoE's gives several tensors. Weights may be any, where ways are planned.
    return isinstance(y, Tensor) and torch.allclose(y, product, equal_nan=True)


def choose_targets(model: PreTrainedModel, endings: Sequence[str]) -> list[str]:
    """Find the linear layers whose names end in one of several endings, as peft matches them.

    Args:
        model: A model with a head.
        endings: Endings such as `query` or `attention.output.dense`; none, or peft's `all-linear`,
            for all layers but those of one output, such as the gate of a shared expert: there is no
            lower rank than theirs.

    Raises:
        InputError: An ending matches nothing, or the head.
        ModelError: The model has no linear layers.
    """
    layers = list(linear_layers(model))
    chosen: set[str] = set()
    for ending in endings or (_ALL,):
        found = _wide(model, layers) if ending == _ALL else _ending_in(ending, layers)
        if not found:
            raise _refusal(model, layers, ending)
        chosen.update(found)
    return [name for name in layers if name in chosen]


def _wide(model: PreTrainedModel, layers: Sequence[str]) -> list[str]:
    return [name for name in layers if min(model.get_parameter(f"{name}.weight").shape) > 1]


def _ending_in(ending: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name == ending or name.endswith(f".{ending}")]


def _refusal(model: PreTrainedModel, layers: Sequence[str], ending: str) -> InputError:
    """Why an ending chooses none of the layers."""
    if ending == _ALL or not layers:
        return ModelError(
            "The model has no linear layers under its head",
            "Train it by another way, --tune last-2 for one",
        )
    head = [*head_modules(model), *(name.rpartition(".")[0] for name in head_names(model))]
    if _ending_in(ending, head):
        return InputError(
            f"--lora-targets {quote(ending)} is of the head, which trains whole", "Leave it out"
        )
    known = sorted({name.rpartition(".")[2] for name in layers})
    # An ending of as many parts is the nearest to what was meant.
    parts = ending.count(".") + 1
    endings_there = {".".join(name.split(".")[-parts:]) for name in layers}
    return InputError(
        f"--lora-targets {quote(ending)} matches none of the model's linear layers",
        suggest(ending, sorted(endings_there), listing=f"There are {', '.join(known)}"),
    )
