"""Prefix tuning, made by peft: keys and values that every layer's attention sees before the text.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, arXiv
2101.00190. They reach the layers as peft's do, as the cache of tokens that were there before: so
positions begin behind them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from peft.tuners.prefix_tuning import PrefixEncoder
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from edgefuse.hub.copies import share
from edgefuse.hub.silence import silence_transformers
from edgefuse.tuning.attention_cache import CacheShape, shape_of_cache
from edgefuse.tuning.extend import extend
from edgefuse.tuning.parts import head_modules
from edgefuse.tuning.peft_model import ADAPTER, load_adapter, unwrap_saved_modules
from edgefuse.tuning.way import Prepared, Way, train_only
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.quiet import quiet as without_warnings
from edgefuse_runtime.bundle.manifest import Merge, Perceptron

_LENGTH = 10  # positions


class Prefixes(nn.Module):
    """Keys and values of every layer.

    Attributes:
        weight: (length, layers · 2 · heads · head size).
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        """Give them as they are."""
        return self.weight


class ProjectedPrefixes(nn.Module):
    """Keys and values that a perceptron makes of one vector for each position.

    Attributes:
        embedding: (length, heads · head size).
        hidden: To the perceptron's width.
        output: To all layers' keys and values.
    """

    def __init__(self, embedding: Tensor, hidden: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Parameter(embedding)
        self.hidden = hidden
        self.output = output

    def forward(self) -> Tensor:
        """Make them."""
        made: Tensor = self.output(torch.tanh(self.hidden(self.embedding)))
        return made


class Prefixed(nn.Module):
    """What lets a transformer's backbone begin from prefixes.

    Attributes:
        prefix: Gives the keys and values.
        prefix_heads: Of keys and values.
        prefix_layers: Of the backbone.
    """

    prefix: nn.Module
    prefix_heads: int
    prefix_layers: int

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        """Map token ids and mask, both (batch, sequence), as the backbone does."""
        rows = input_ids.shape[0]
        prefix: Tensor = self.prefix()
        length = prefix.shape[0]
        tensors = prefix.view(length, 2 * self.prefix_layers, self.prefix_heads, -1)
        tensors = tensors.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, rows, -1, -1, -1)
        cache = DynamicCache()
        for layer in range(self.prefix_layers):
            cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
        mask = torch.cat([attention_mask.new_ones((rows, length)), attention_mask], dim=1)
        kwargs["past_key_values"] = cache
        return super().forward(input_ids, attention_mask=mask, **kwargs)


@dataclass(frozen=True)
class Prefix(Way):
    """Keys and values before the text train, and the head.

    Attributes:
        length: Positions that the prefixes take; None for 10.
        projection: Width of a perceptron that makes them while they train, which steadies long
            training; 0 for none.
        adapter: A directory that peft saved, whose prefixes are where training starts; it says
            the length.
    """

    family: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix"
    summary: ClassVar[str] = "keys and values before the text, in every layer, and the head"
    learning_rate: ClassVar[float] = 1e-3

    length: int | None = None
    projection: int = 0
    adapter: Path | None = field(default=None, metadata={"option": False})

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Put prefixes before the backbone's attention.

        Raises:
            InputError: The length is none.
            ModelError: The model's attention takes no keys and values from outside, or not such as
                peft makes.
        """
        if self.length is not None and self.length < 1:
            raise InputError(f"--prefix-length {self.length} leaves nothing to train", "Give 10")
        if self.projection < 0:
            raise InputError(
                f"--prefix-projection {self.projection} is no width",
                "Give 128, say, or leave it out for no perceptron",
            )
        shape = shape_of_cache(model)
        wrapped = load_adapter(model, self.adapter) if self.adapter else self._make(model, shape)
        config = wrapped.peft_config[ADAPTER]
        assert isinstance(config, PrefixTuningConfig)
        _check_shape(config, shape)
        encoder = wrapped.prompt_encoder[ADAPTER]
        assert isinstance(encoder, PrefixEncoder)
        trained = [f"{name}." for name in unwrap_saved_modules(model)]
        backbone = f"{model.base_model_prefix}.prefix"
        inference, merges = _install(model, encoder, config)
        config.prefix_projection = False  # what the board gives back are the prefixes themselves
        trained.append(f"{backbone}.")
        train_only(model, [n for n, _ in model.named_parameters() if n.startswith(tuple(trained))])
        return Prepared(
            inference=inference,
            merges=merges,
            peft=config,
            positions=config.num_virtual_tokens or 0,
        )

    def _make(self, model: PreTrainedModel, shape: CacheShape) -> PeftModel:
        config = PrefixTuningConfig(
            task_type=TaskType.SEQ_CLS,
            num_virtual_tokens=_LENGTH if self.length is None else self.length,
            num_layers=shape.layers,
            num_attention_heads=shape.heads,
            token_dim=shape.heads * shape.size,
            prefix_projection=self.projection > 0,
            encoder_hidden_size=self.projection or None,  # type: ignore[arg-type]
            modules_to_save=head_modules(model),
        )
        with silence_transformers(), without_warnings():
            return get_peft_model(model, config)


def _check_shape(config: PrefixTuningConfig, kept: CacheShape) -> None:
    """Prefixes are what the model's attention keeps: peft made them so, and an adapter says so."""
    assert config.num_layers
    assert config.num_attention_heads
    assert config.token_dim
    size = config.token_dim // config.num_attention_heads
    if (made := CacheShape(config.num_layers, config.num_attention_heads, size)) != kept:
        raise ModelError(
            f"peft's prefixes are {made} for a token, and the model's attention keeps {kept} "
            "(layers × heads × head size)",
            "Begin from the model that the adapter was made for",
        )


def _install(
    model: PreTrainedModel, encoder: PrefixEncoder, config: PrefixTuningConfig
) -> tuple[PreTrainedModel | None, list[Merge]]:
    """Put prefixes into the backbone; give the model without a perceptron, where there is one."""
    backbone = model.base_model
    extend(backbone, Prefixed, prefix=Prefixes(encoder.embedding.weight.detach()))
    backbone.prefix_heads = config.num_attention_heads  # type: ignore[assignment]
    backbone.prefix_layers = config.num_layers  # type: ignore[assignment]
    if not hasattr(encoder, "transform"):
        return None, []
    with torch.no_grad():
        hidden, _, output = encoder.transform
        projected = ProjectedPrefixes(encoder.embedding.weight.detach(), hidden, output)
        backbone.prefix = Prefixes(projected().detach())
    inference = share(model)
    backbone.prefix = projected
    name = f"{model.base_model_prefix}.prefix"
    merge = Perceptron(
        weight=f"{name}.weight",
        inputs=f"{name}.embedding",
        hidden_weight=f"{name}.hidden.weight",
        hidden_bias=f"{name}.hidden.bias",
        output_weight=f"{name}.output.weight",
        output_bias=f"{name}.output.bias",
    )
    return inference, [merge]
