"""Low-rank updates inside a model's own layers, made or loaded by peft.

peft wraps every layer, which renames its tensors, and knows nothing of P. So its factors are taken
into the model's own layers: y = W x + b + (α/r)·B A x, and in a fused down-projection, which
computes W (P ⊙ f), A too reads P ⊙ f. There a column of A, as one of W, stands for n neurons.
"""

from pathlib import Path

import torch
from peft import LoraConfig, TaskType
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgefuse.hub.copies import share
from edgefuse.layers.fused import FusedConv1D, FusedLinear, unfold
from edgefuse.layers.tied import reads_elsewhere
from edgefuse.tuning.extend import extend
from edgefuse.tuning.peft_model import ADAPTER, load_peft_adapter, unwrap_saved_modules, wrap
from edgefuse.tuning.way import Prepared, train_only
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.graph.merges import LowRankUpdate

_Fused = FusedLinear | FusedConv1D
_MERGE_IT = "Merge it into its model with peft's `merge_and_unload`, and export that"


class LowRank(nn.Module):
    """Extension of a linear layer by (α/r)·B A x, added to its output.

    Attributes:
        lora_A: A, which maps x (…, columns) to (…, r).
        lora_B: B, which maps that to (…, rows).
        scale: α/r.
    """

    lora_A: nn.Linear  # noqa: N815 - peft's name
    lora_B: nn.Linear  # noqa: N815
    scale: float

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map x (…, columns) to (…, rows)."""
        read = input * self.multiplicity if isinstance(self, _Fused) else input
        update: Tensor = self.lora_B(self.lora_A(read) * self.scale)
        output: Tensor = super().forward(input)
        return output + update


def make_updates(model: PreTrainedModel, config: LoraConfig) -> Prepared:
    """Put new factors into a model's layers, in place, and let them train with the head.

    Args:
        model: Plain or fused.
        config: Targets, rank and α.

    Raises:
        ModelError: peft updates one of the targets by something else than two factors.
    """
    plain = share(model)
    wrap(model, config)
    heads = unwrap_saved_modules(model)
    for name, layer in _updated_layers(model):
        if not _is_low_rank(layer):  # as in DeepSeek, whose shared experts have names of others
            raise ModelError(
                f"peft takes some of the targets for {name}, which it updates otherwise",
                "Name others with --lora-targets, those of the attention for example",
            )
    return _take_updates(model, plain, heads, config)


def load_updates(model: PreTrainedModel, adapter: Path, task_type: TaskType) -> Prepared:
    """Put the factors of a peft adapter into a model's layers, in place, and let them train.

    Args:
        model: Plain or fused: the adapter's base.
        adapter: Directory that peft saved.
        task_type: peft's name of the task.

    Raises:
        ModelError: The adapter does not fit the model, or is more than low-rank updates.
    """
    plain = share(model)
    config = load_peft_adapter(model, adapter, task_type).peft_config[ADAPTER]
    heads = unwrap_saved_modules(model)
    assert isinstance(config, LoraConfig)
    if config.bias != "none":
        raise ModelError(f"{adapter} updates biases too", _MERGE_IT)
    for name, layer in _updated_layers(model):
        if not _is_low_rank(layer):
            raise ModelError(
                f"The adapter updates {name} otherwise than by two low-rank factors", _MERGE_IT
            )
        if reads_elsewhere(layer.get_base_layer()):
            raise ModelError(
                f"The adapter updates {name}, which has no weight of its own but shares another's",
                f"Begin from an adapter without {name} among its `target_modules`",
            )
        _unfold_factors(name, layer)
    return _take_updates(model, plain, heads, config)


@torch.no_grad()
def merge_peft_adapter(
    model: PreTrainedModel, adapter: Path, task_type: TaskType
) -> PreTrainedModel:
    """Make the plain model that a model with a LoRA adapter computes.

    Args:
        model: Plain or fused: the adapter's base. It is of no use afterwards.
        adapter: Directory that peft saved.
        task_type: peft's name of the task.

    Raises:
        ModelError: The adapter does not fit the model, or is more than low-rank updates.
    """
    prepared = load_updates(model, adapter, task_type)
    plain = prepared.inference
    assert plain is not None
    for name, parameter in plain.named_parameters():  # a head that came with the adapter
        parameter.copy_(model.get_parameter(name))
    for merge in prepared.merges:
        assert isinstance(merge, LowRankUpdate)
        update = merge.scale * model.get_parameter(merge.b) @ model.get_parameter(merge.a)
        plain.get_parameter(merge.weight).add_(update.T if merge.transposed else update)
    return plain


def _updated_layers(model: PreTrainedModel) -> list[tuple[str, BaseTunerLayer]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]


def _is_low_rank(layer: BaseTunerLayer) -> bool:
    return isinstance(layer, PeftLinear) and not (layer.lora_variant or layer.lora_bias[ADAPTER])


def _take_updates(
    model: PreTrainedModel, plain: PreTrainedModel, heads: list[str], config: LoraConfig
) -> Prepared:
    """Take all of peft's factors into the layers, and let them train with the head."""
    merges = [_take_factors(model, name, layer) for name, layer in _updated_layers(model)]
    parts = [part for merge in merges for part in merge.parts]
    trained = (*(f"{name}." for name in heads), *parts)
    train_only(model, [n for n, _ in model.named_parameters() if n.startswith(trained)])
    return Prepared(inference=plain, merges=merges, peft=config)


def _unfold_factors(name: str, layer: BaseTunerLayer) -> None:
    """Divide P out of what peft's A was trained to read: f, where ours reads P ⊙ f."""
    assert isinstance(layer, PeftLinear)
    base = layer.base_layer
    if not isinstance(base, _Fused):
        return
    a = layer.lora_A[ADAPTER].get_parameter("weight")
    if a[:, base.multiplicity == 0].any():
        raise ModelError(
            f"The adapter reads neurons of {name} that the fused model leaves out",
            "Begin from the fused model itself, without the adapter",
        )
    a.data = unfold(a.data, base.multiplicity)


def _take_factors(model: PreTrainedModel, name: str, layer: BaseTunerLayer) -> LowRankUpdate:
    """Put a layer in the place of peft's around it, with its factors."""
    assert isinstance(layer, PeftLinear)
    base = layer.base_layer
    model.set_submodule(name, base)
    extend(base, LowRank, lora_A=layer.lora_A[ADAPTER], lora_B=layer.lora_B[ADAPTER])
    base.scale = layer.scaling[ADAPTER]
    return LowRankUpdate(
        weight=f"{name}.weight",
        a=f"{name}.lora_A.weight",
        b=f"{name}.lora_B.weight",
        scale=layer.scaling[ADAPTER],
        transposed=isinstance(base, Conv1D),
    )
