"""Adapters: small blocks after attention and after the MLP, in front of the residual sums.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751:
y + U gelu(D y + d) + u, near the identity at the start.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.hub.silence import silence_transformers
from edgefuse.mlps.mlp import find_mlps
from edgefuse.tuning.extend import extend
from edgefuse.tuning.parts import head_names, transformer_layers
from edgefuse.tuning.way import INSTEAD, Prepared, Way, train_only
from edgefuse_devices.errors import InputError, ModelError

_ATTENTION_OUTPUTS = (
    "attention.output.dense",  # BERT, RoBERTa, ELECTRA
    "attention.out_lin",  # DistilBERT
    "attention.dense",  # ALBERT, GPT-NeoX
    "attention.attn.o",  # MPNet
    "attention.out_proj",  # GPT-Neo
    "self_attn.o_proj",  # Llama, Qwen, Gemma, Mistral, Phi-3 …
    "self_attn.dense",  # Phi, Persimmon
    "attn.out_proj",  # OPT, GPT-J, MPT
    "attn.c_proj",  # GPT-2
    "attn.Wo",  # ModernBERT
)
_DEVIATION = 1e-2
"""Of the weights at the start, as in the paper's section 3.6."""


class Bottleneck(nn.Module):
    """What an adapter adds to y.

    Attributes:
        down: D, d: y (…, hidden) → (…, size).
        up: U, u: back.
    """

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, size)
        self.up = nn.Linear(size, hidden)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, 0, _DEVIATION, -2 * _DEVIATION, 2 * _DEVIATION)
            nn.init.zeros_(layer.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Map y (…, hidden) to what is added to it."""
        added: Tensor = self.up(F.gelu(self.down(y)))
        return added


class Adapted(nn.Module):
    """What puts an adapter behind a projection."""

    adapter: Bottleneck

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map as the projection does, and adapt."""
        y: Tensor = super().forward(input)
        adapted: Tensor = y + self.adapter(y)
        return adapted


@dataclass(frozen=True)
class Adapter(Way):
    """Adapters train, and the norms of the layers, and the head.

    Attributes:
        size: Width of the bottleneck.
    """

    family: ClassVar[str] = "adapter"
    title: ClassVar[str] = "adapter"
    summary: ClassVar[str] = "small blocks after attention and MLP, norms, and the head"
    learning_rate: ClassVar[float] = 1e-3

    size: int = 64

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Put adapters behind the projections that end attention and MLP.

        Raises:
            InputError: The size is none.
            ModelError: It is not known where the model's attention ends.
        """
        if self.size < 1:
            raise InputError(f"--adapter-size {self.size} leaves nothing to train", "Give 64")
        places = _places(model)
        for name in places:
            adapter = Bottleneck(model.config.hidden_size, self.size).to(model.device)
            extend(model.get_submodule(name), Adapted, adapter=adapter)
        adapters = tuple(f"{name}.adapter." for name in places)
        names = [name for name, _ in model.named_parameters() if name.startswith(adapters)]
        train_only(model, [*names, *_norms(model), *head_names(model)])
        return Prepared()


def _places(model: PreTrainedModel) -> list[str]:
    """The projections, by name; of an architecture as it is before any compression."""
    with silence_transformers(), torch.device("meta"):
        plain = type(model)(model.config)
    attention = [name for name, _ in plain.named_modules() if name.endswith(_ATTENTION_OUTPUTS)]
    downs = [mlp.layout.down for mlp in find_mlps(plain)]
    layers = len(transformer_layers(plain))
    stacked = any(down.expert is not None for down in downs)
    if len(attention) != layers or len(downs) != layers or stacked:
        raise ModelError(
            f"Where attention and MLP end in {type(model).__name__} is not known, and --tune "
            "adapter goes there",
            INSTEAD,
        )
    return [*attention, *(down.name.removesuffix(".weight") for down in downs)]


def _norms(model: PreTrainedModel) -> list[str]:
    inside = {id(module) for layer in transformer_layers(model) for module in layer.modules()}
    return [
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if id(module) in inside and type(module).__name__.endswith("Norm")
        for parameter, _ in module.named_parameters(recurse=False)
    ]
