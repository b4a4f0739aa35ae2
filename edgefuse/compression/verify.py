"""Check that MLPs compute what their structure says: it does not show a norm between projections.

Nor does it show a gate that is clipped, or a scale.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse.compression.mlp import MLP, find_mlps
from edgefuse.compression.neurons import Layer
from edgefuse_devices.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 0.05  # bfloat16's rounding is below, another formula far above
_SCALES = (1.0, 30.0)  # of hidden states in a trial without a model: the larger are clipped


@torch.no_grad()
def verify(model: "PreTrainedModel", mlps: Sequence[MLP]) -> None:
    """Compare what MLPs compute with `neurons.Layer`'s formula, by running their model once.

    Args:
        model: With weights, in evaluation mode.
        mlps: Of that model. Experts that no token of the trial reaches are taken on trust.

    Raises:
        ModelError: An MLP computes something else, or has weights that are NaN or infinite.
    """
    tokens = torch.arange(24, device=model.device).reshape(2, 12) % model.config.vocab_size
    inputs = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    _compare(model, mlps, lambda: model(**inputs))


@torch.no_grad()
def verify_without_weights(model: "PreTrainedModel", mlps: Sequence[MLP]) -> None:
    """The same for a model that may not fit into memory: one MLP of each kind, with drawn weights.

    Args:
        model: Its weights are on the meta device, and stay there.
        mlps: Of that model. Those in modules that want more than hidden states are taken on trust.

    Raises:
        ModelError: An MLP computes something else.
    """
    kinds: dict[object, MLP] = {}
    for mlp in mlps:
        module = model.get_submodule(_holder(mlp))
        shapes = [(name, tensor.shape) for name, tensor in module.state_dict().items()]
        kinds.setdefault((type(module), *shapes), mlp)
    for mlp in kinds.values():
        module = _drawn(model.get_submodule(_holder(mlp)))
        parts = [one for one in find_mlps(module) if _holder(one) == ""]
        x = torch.randn(24, mlp.hidden_size, generator=torch.Generator().manual_seed(0))
        for scale in _SCALES:
            _compare(module, parts, partial(_try, module, parts, scale * x), called=mlp.name)


def _compare(
    model: nn.Module, mlps: Sequence[MLP], run: Callable[[], object], *, called: str | None = None
) -> None:
    """Compare all MLPs that `run` reaches; `called` is the name of an MLP that has another here."""
    groups: dict[str, list[MLP]] = {}
    for mlp in mlps:
        groups.setdefault(mlp.stack or mlp.name, []).append(mlp)
    checks = [_Check(group) for group in groups.values()]
    with ExitStack() as hooks:
        for check in checks:
            for hook in check.hooks(model):
                hooks.callback(hook.remove)
        run()
    for check in checks:
        if check.error > _TOLERANCE:
            raise ModelError(
                f"{called or check.name} is built like an MLP and computes something else",
                "Leave its layer out with --layers, or tell the maintainers of EdgeFuse",
            )


def _holder(mlp: MLP) -> str:
    """The module that holds an MLP, or all experts of a stack."""
    return mlp.name if mlp.stack is None else mlp.name.rpartition("[")[0]


def _drawn(empty: nn.Module) -> nn.Module:
    """A copy of a module without weights that has some, under which no sum grows."""
    module = deepcopy(empty).to_empty(device="cpu").float()
    generator = torch.Generator().manual_seed(1)
    for buffer in module.buffers():
        buffer.zero_()
    for parameter in module.parameters():
        parameter.normal_(generator=generator)
        if parameter.ndim > 1:
            parameter.mul_(min(parameter.shape[-2:]) ** -0.5)
        else:
            parameter.mul_(0.1).add_(1)
    return module.eval()


def _try(module: nn.Module, mlps: Sequence[MLP], x: Tensor) -> None:
    """Run a module on hidden states (n, p), if that is all it wants."""
    if mlps[0].stack is None:
        with suppress(TypeError, ValueError, AttributeError, RuntimeError):
            module(x[None])
    else:
        first, last = x.new_zeros(len(x), 1).long(), x.new_full((len(x), 1), len(mlps) - 1).long()
        module(x, torch.cat([first, last], dim=1), x.new_full((len(x), 2), 0.5))


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
