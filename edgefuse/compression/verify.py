"""Check that MLPs compute what their structure says, by running their model once."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse.compression.mlp import MLP
from edgefuse.compression.neurons import Layer
from edgefuse_devices.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 0.05  # bfloat16's rounding is below, another formula far above


@torch.no_grad()
def verify(model: "PreTrainedModel", mlps: Sequence[MLP]) -> None:
    """Compare what MLPs compute with `neurons.Layer`'s formula.

    A structure does not show a norm between two projections, or a gate that is clipped.

    Args:
        model: With weights, in evaluation mode.
        mlps: Of that model. Experts that no token of the trial reaches are taken on trust.

    Raises:
        ModelError: An MLP computes something else, or has weights that are NaN or infinite.
    """
    groups: dict[str, list[MLP]] = {}
    for mlp in mlps:
        groups.setdefault(mlp.stack or mlp.name, []).append(mlp)
    checks = [_Check(group) for group in groups.values()]
    tokens = torch.arange(24, device=model.device).reshape(2, 12) % model.config.vocab_size
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    with ExitStack() as hooks:
        for check in checks:
            for hook in check.hooks(model):
                hooks.callback(hook.remove)
        model(**inputs)
    for check in checks:
        if check.error > _TOLERANCE:
            raise ModelError(
                f"{check.name} is built like an MLP and computes something else",
                "Leave its layer out with --layers, or tell the maintainers of EdgeFuse",
            )


class _Check:
    """The relative error of an MLP's formula, or of a whole stack of experts'."""

    def __init__(self, group: Sequence[MLP]) -> None:
        self.group = group
        self.name = group[0].name
        self.inputs: tuple[Tensor, ...] = ()
        self.error = 0.0

    def hooks(self, model: nn.Module) -> tuple[torch.utils.hooks.RemovableHandle, ...]:
        layout = self.group[0].layout
        entry, exit_ = (slot.name.rpartition(".")[0] for slot in (layout.up, layout.down))
        return (
            model.get_submodule(entry).register_forward_pre_hook(self.see_inputs),
            model.get_submodule(exit_).register_forward_hook(self.see_output),
        )

    def see_inputs(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.inputs = args

    def see_output(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        x = self.inputs[0].float()
        if self.group[0].stack:
            expected = torch.stack([self._share(mlp, x) for mlp in self.group]).sum(dim=0)
        else:
            expected = _output(self.group[0].layer_view(), x)
        scale = float(expected.norm()) or 1.0
        self.error = max(self.error, float((output - expected).norm()) / scale)

    def _share(self, expert: MLP, x: Tensor) -> Tensor:
        """An expert's part in its stack's output, by the router's indices and weights (n, k)."""
        _, indices, weights = self.inputs
        weight = (weights * (indices == expert.expert)).sum(dim=-1, keepdim=True)
        return weight * _output(expert.layer_view(), x)


def _output(layer: Layer, x: Tensor) -> Tensor:
    return F.linear(layer.neurons.hidden(x, layer.activation), layer.neurons.down, layer.bias)
