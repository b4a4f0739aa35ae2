"""Prefixes inside a model's own backbone, made or loaded by peft.

They reach the layers as peft's do, as the cache of tokens that were there before: so positions
begin behind them.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PrefixTuningConfig, TaskType
from peft.tuners.prefix_tuning import PrefixEncoder
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from edgefuse.hub.copies import share
from edgefuse.tuning.attention_cache import CacheShape, shape_of_cache
from edgefuse.tuning.extend import extend
from edgefuse.tuning.parts import backbone_prefix, head_modules
from edgefuse.tuning.peft_model import ADAPTER, load_peft_adapter, unwrap_saved_modules, wrap
from edgefuse.tuning.way import Prepared, train_only
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.graph.merges import Merge, Perceptron


class Prefixes(nn.Module):
    """Keys and values of every layer.

    Attributes:
        weight: Keys and values, (length, layers · 2 · heads · head size).
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
        embedding: Vectors of the positions, (length, heads · head size).
        hidden: First layer of the perceptron.
        output: Second layer, whose outputs are all layers' keys and values.
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
    """Extension of a transformer's backbone that lets it begin from prefixes.

    Attributes:
        prefix: Module that gives the keys and values.
        prefix_heads: Count of heads of keys and values.
        prefix_layers: Count of layers.
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


def make_prefixes(
    model: PreTrainedModel, task_type: TaskType, *, length: int, projection: int
) -> Prepared:
    """Put new prefixes before a backbone's attention, in place, and let them train with the head.

    Args:
        model: Plain or compressed.
        task_type: peft's name of the task.
        length: Count of positions.
        projection: Width of a perceptron that makes the prefixes; 0 for none.

    Raises:
        ModelError: The model's attention takes no keys and values from outside, or not such as
            peft makes.
    """
    shape = shape_of_cache(model)
    config = PrefixTuningConfig(
        task_type=task_type,
        num_virtual_tokens=length,
        num_layers=shape.layers,
        num_attention_heads=shape.heads,
        token_dim=shape.heads * shape.size,
        prefix_projection=projection > 0,
        encoder_hidden_size=projection or None,  # type: ignore[arg-type]
        modules_to_save=head_modules(model),
    )
    return _take_prefixes(model, wrap(model, config), shape)


def load_prefixes(model: PreTrainedModel, adapter: Path, task_type: TaskType) -> Prepared:
    """Put the prefixes of a peft adapter before a backbone's attention, and let them train.

    Args:
        model: Plain or compressed: the adapter's base.
        adapter: Directory that peft saved.
        task_type: peft's name of the task.

    Raises:
        ModelError: The model's attention takes no keys and values from outside, or the adapter
            does not fit it.
    """
    shape = shape_of_cache(model)
    return _take_prefixes(model, load_peft_adapter(model, adapter, task_type), shape)


def _take_prefixes(model: PreTrainedModel, wrapped: PeftModel, shape: CacheShape) -> Prepared:
    config = wrapped.peft_config[ADAPTER]
    assert isinstance(config, PrefixTuningConfig)
    _check_shape(config, shape)
    encoder = wrapped.prompt_encoder[ADAPTER]
    assert isinstance(encoder, PrefixEncoder)
    trained = [f"{name}." for name in unwrap_saved_modules(model)]
    trained.append(f"{backbone_prefix(model)}prefix.")
    inference, merges = _install(model, encoder, config)
    config.prefix_projection = False  # what the board gives back are the prefixes themselves
    train_only(model, [n for n, _ in model.named_parameters() if n.startswith(tuple(trained))])
    return Prepared(
        inference=inference,
        merges=merges,
        peft=config,
        positions=config.num_virtual_tokens or 0,
        not_plain="has no prefixes, and this model does",
    )


def _check_shape(config: PrefixTuningConfig, kept: CacheShape) -> None:
    """Compare the shape of prefixes, which peft or an adapter chose, with what attention keeps."""
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
    name = f"{backbone_prefix(model)}prefix"
    merge = Perceptron(
        weight=f"{name}.weight",
        inputs=f"{name}.embedding",
        hidden_weight=f"{name}.hidden.weight",
        hidden_bias=f"{name}.hidden.bias",
        output_weight=f"{name}.output.weight",
        output_bias=f"{name}.output.bias",
    )
    return inference, [merge]
