"""Bottlenecks behind projections: y + U gelu(D y + d) + u, near the identity at the start.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, arXiv 1902.00751.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.hub.silence import silence_transformers
from edgefuse.mlps.mlp import find_mlps
from edgefuse.tuning.extend import extend
from edgefuse.tuning.parts import transformer_layers
from edgefuse.tuning.way import INSTEAD
from edgefuse_devices.errors import ModelError

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
"""Standard deviation of the weights at the start, as in the paper's section 3.6."""


class Bottleneck(nn.Module):
    """What an adapter adds to y.

    Attributes:
        down: D and d, which map y (…, hidden) to (…, size).
        up: U and u, which map that back.
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
    """Extension of a projection by an adapter behind it."""

    adapter: Bottleneck

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map as the projection does, and adapt."""
        y: Tensor = super().forward(input)
        adapted: Tensor = y + self.adapter(y)
        return adapted


def add_bottlenecks(model: PreTrainedModel, size: int) -> list[str]:
    """Put adapters behind the projections that end attention and MLP, in place.

    Args:
        model: Plain or compressed.
        size: Width of the bottlenecks.

    Returns:
        Names of the adapters' parameters.

    Raises:
        ModelError: It is not known where the model's attention ends.
    """
    places = _places(model)
    for name in places:
        adapter = Bottleneck(model.config.hidden_size, size).to(model.device)
        extend(model.get_submodule(name), Adapted, adapter=adapter)
    adapters = tuple(f"{name}.adapter." for name in places)
    return [name for name, _ in model.named_parameters() if name.startswith(adapters)]


def _places(model: PreTrainedModel) -> list[str]:
    """Names of the projections, found in the architecture as it is before any compression."""
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
