"""Check that MLPs compute what their structure promises.

A structure does not show a norm between projections, a gate that is clipped, or a scale.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgefuse.hub.model import embedding_rows
from edgefuse.mlps.mlp import MLP, by_stack, find_mlps, mlps_in
from edgefuse_devices.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = 0.05  # bfloat16's rounding is below, another formula far above
_EXPERTS = 2  # of a stack, in such a trial
_SCALES = (1.0, 30.0)  # of hidden states in a trial without a model: the larger are clipped


@torch.no_grad()
def verify(model: "PreTrainedModel", mlps: Sequence[MLP]) -> None:
    """Compare what MLPs compute with `neurons.Layer`'s formula, by running their model.

    Args:
        model: Model with weights, in evaluation mode.
        mlps: MLPs of that model. Experts that no token of the trial reaches are taken on trust.

    Raises:
        ModelError: An MLP computes something else, or has weights that are NaN or infinite; or
            the model reads something else than text.
    """
    base = model.base_model
    inputs: dict[str, Tensor] = {}
    try:
        tokens = torch.arange(24, device=model.device).reshape(2, 12) % embedding_rows(model)
        inputs["input_ids"] = tokens
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = tokens
        base(**inputs)
    except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        raise ModelError(
            f"{type(model).__name__} cannot be run on text alone: {error}",
            "Compress it without text, or its language model by itself",
        ) from error
    _compare(base, mlps_in(base, mlps), lambda: base(**inputs))


@torch.no_grad()
def verify_without_weights(model: "PreTrainedModel", mlps: Sequence[MLP]) -> None:
    """Verify a model that may not fit into memory: one MLP of each kind, with drawn weights.

    Args:
        model: Model whose weights are on the meta device, and stay there.
        mlps: MLPs of that model. Those in modules that want more than hidden states are taken on
            trust.

    Raises:
        ModelError: An MLP computes something else.
    """
    kinds: dict[object, MLP] = {}
    for mlp in mlps:
        kinds.setdefault(_kind(model.get_submodule(_holder(mlp))), mlp)
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
    checks = [_Check([mlps[index] for index in group]) for group in by_stack(mlps)]
    with ExitStack() as hooks:
        for check in checks:
            for hook in check.hooks(model):
                hooks.callback(hook.remove)
        run()
    for check in checks:
        if not all(error <= _TOLERANCE for error in check.errors()):  # NaN is not
            raise ModelError(
                f"{called or check.name} is built like an MLP and computes something else",
                "Leave its layer out with --layers, or tell the maintainers of EdgeFuse",
            )


def _holder(mlp: MLP) -> str:
    """Name the module that holds an MLP, or all experts of a stack."""
    return mlp.name if mlp.stack is None else mlp.name.rpartition("[")[0]


def _kind(module: nn.Module) -> object:
    """List what modules that compute alike have in common: class, shapes and settings."""
    shapes = [(name, tensor.shape) for name, tensor in module.state_dict().items()]
    settings = [
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, int | float | str) and name != "layer_idx"
    ]
    return type(module), *shapes, *settings


def _drawn(empty: nn.Module) -> nn.Module:
    """Copy a module without weights, and draw some for the copy, under which no sum grows.

    A stack keeps two experts.
    """
    module = deepcopy(empty).float()
    for name, parameter in list(module.named_parameters(recurse=False)):
        if parameter.ndim == 3:
            setattr(module, name, nn.Parameter(parameter[:_EXPERTS]))
            module.num_experts = _EXPERTS  # type: ignore[assignment]
    module = module.to_empty(device="cpu")
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
    """Run a module on hidden states (n, p), and with a router's answers for a stack of experts."""
    with suppress(Exception):  # whatever it lacks: what was reached is compared, the rest trusted
        if mlps[0].stack is None:
            module(x[None])
        else:
            indices = torch.arange(len(mlps)).expand(len(x), -1)
            module(x, indices, x.new_full(indices.shape, 1 / len(mlps)))


class _Check:
    """The relative error of an MLP's formula, or of a whole stack of experts'."""

    def __init__(self, group: Sequence[MLP]) -> None:
        self.group = group
        self.name = group[0].name
        self.inputs: tuple[Tensor, ...] = ()
        self.calls: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def hooks(self, model: nn.Module) -> tuple[torch.utils.hooks.RemovableHandle, ...]:
        layout = self.group[0].layout
        entry, exit_ = (slot.name.rpartition(".")[0] for slot in (layout.up, layout.down))
        return (
            model.get_submodule(entry).register_forward_pre_hook(self.see_inputs),
            model.get_submodule(exit_).register_forward_hook(self.see_output),
        )

    def see_inputs(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(arg.clone() for arg in args)  # what follows may change them

    def see_output(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        self.calls.append((self.inputs, output.clone()))

    def errors(self) -> list[float]:
        """Compute the relative error of every call."""
        errors = []
        for inputs, output in self.calls:
            x = inputs[0].float()
            if self.group[0].stack:
                shares = [self._share(mlp, x, *inputs[1:]) for mlp in self.group]
                expected = torch.stack(shares).sum(dim=0)
            else:
                expected = self.group[0].layer_view().output(x)
            errors.append(float((output - expected).norm()) / (float(expected.norm()) or 1.0))
        return errors

    def _share(self, expert: MLP, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Compute an expert's part in its stack's output, as the router weighs it (n, k)."""
        weight = (weights * (indices == expert.expert)).sum(dim=-1, keepdim=True)
        return weight * expert.layer_view().output(x)
