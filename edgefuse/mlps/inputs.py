"""Watch what reaches an MLP while its model runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.mlps.mlp import MLP

See = Callable[[MLP, Tensor], None]


@contextmanager
def watch_inputs(mlps: Sequence[MLP], see: See) -> Iterator[None]:
    """Hand every MLP's inputs to a function while their model runs: tokens that are no padding.

    Padding is known by the `attention_mask` (batch, sequence) that the model is called with, by
    name; for the decoder's MLPs of an encoder-decoder model by the `decoder_attention_mask`.
    Without one every token counts. For hidden states (sequence, batch, p), as XLNet has, the mask
    is turned; where batch and sequence are equal, (batch, sequence, p) is assumed. The inputs of an
    expert are the tokens that the router sends it, if any. Those of a layer that is used many times
    over (ALBERT) come each time.

    Args:
        mlps: MLPs of one model.
        see: Function of an MLP and its inputs (n, p), of the model's own type and device.
    """
    if not mlps:
        yield
        return
    model = mlps[0].model
    masks = _Masks(model)
    groups: dict[str, list[MLP]] = {}
    for mlp in mlps:
        groups.setdefault(_watched(mlp), []).append(mlp)
    with ExitStack() as hooks:
        hook = model.register_forward_pre_hook(masks.remember, with_kwargs=True)
        hooks.callback(hook.remove)
        for name, group in groups.items():
            watched = model.get_submodule(name)
            show = _shows_all if isinstance(watched, nn.Linear | Conv1D) else _shows_experts
            hook = watched.register_forward_pre_hook(show(group, masks, see))
            hooks.callback(hook.remove)
        yield


class _Masks:
    """The attention masks of the model's present call."""

    def __init__(self, model: nn.Module) -> None:
        self.two = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        self.encoder: Tensor | None = None
        self.decoder: Tensor | None = None

    def remember(self, _model: nn.Module, _args: object, kwargs: dict[str, Any]) -> None:
        self.encoder = kwargs.get("attention_mask")
        self.decoder = kwargs.get("decoder_attention_mask")

    def of(self, mlp: MLP, shape: torch.Size) -> Tensor | None:
        """Find which of inputs (*shape, p) are no padding, (tokens,); None where no mask fits."""
        in_decoder = self.two and "decoder" in mlp.name.split(".")
        mask = self.decoder if in_decoder else self.encoder
        if mask is None or mask.ndim != 2 or mask.numel() != shape.numel():
            return None
        if shape != mask.shape and shape == mask.T.shape:
            mask = mask.T
        return mask.reshape(-1).bool()


def _watched(mlp: MLP) -> str:
    """Name the module whose inputs are an MLP's: its projection, or what the router calls."""
    if mlp.expert is not None:
        container = mlp.name.rpartition("[")[0] or mlp.name.rpartition(".")[0]
        if type(mlp.model.get_submodule(container)) not in (nn.ModuleList, nn.ModuleDict):
            return container
    return mlp.layout.up.name.rpartition(".")[0]


def _shows_all(group: list[MLP], masks: _Masks, see: See) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs = args[0].detach().reshape(-1, args[0].shape[-1])
        for mlp in group:
            mask = masks.of(mlp, args[0].shape[:-1])
            see(mlp, inputs if mask is None else inputs[mask])

    return hook


def _shows_experts(group: list[MLP], masks: _Masks, see: See) -> Callable[..., None]:
    """Make a hook for a container that is called with tokens (n, p) and the experts of each.

    Those experts are indices (n, top_k), or one-hot (n, 1, E) in Switch Transformers.
    """

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs, chosen = args[0].detach().reshape(-1, args[0].shape[-1]), args[1]
        for mlp in group:
            assert mlp.expert is not None
            sent = chosen[..., mlp.expert] if chosen.ndim == 3 else chosen.eq(mlp.expert)
            sent = sent.reshape(len(inputs), -1).bool().any(dim=1)
            mask = masks.of(mlp, args[0].shape[:-1])
            sent = sent if mask is None else sent & mask
            if sent.any():
                see(mlp, inputs[sent])

    return hook
