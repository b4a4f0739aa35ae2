"""LoRA, made by peft: W + (α/r)·B A with W frozen.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.

peft wraps every layer, which renames its tensors, and knows nothing of P. So its factors are taken
into the model's own layers: y = W x + b + (α/r)·B A x, and in a fused down-projection, which
computes W (P ⊙ f), A too reads P ⊙ f. There a column of A, as one of W, stands for n neurons.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgefuse.hub.copies import share
from edgefuse.hub.silence import silence_transformers
from edgefuse.layers.fused import FusedConv1D, FusedLinear, unfold
from edgefuse.tuning.extend import extend
from edgefuse.tuning.parts import head_modules
from edgefuse.tuning.peft_model import ADAPTER, load_adapter, unwrap_saved_modules
from edgefuse.tuning.targets import choose_targets
from edgefuse.tuning.way import Prepared, Way, train_only
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.quiet import quiet as without_warnings
from edgefuse_runtime.bundle.manifest import LowRankUpdate

_Fused = FusedLinear | FusedConv1D
_RANK = 8


class LowRank(nn.Module):
    """What adds (α/r)·B A x to a layer's output.

    Attributes:
        lora_A: x (…, columns) → (…, r).
        lora_B: (…, r) → (…, rows).
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


@dataclass(frozen=True)
class Lora(Way):
    """Low-rank updates of linear layers train, and the head.

    Attributes:
        rank: r; None for 8.
        alpha: α; None for 2 r.
        targets: Endings of the layers' names; none for all linear layers under the head.
        adapter: A directory that peft saved, whose updates are where training starts; it says
            rank, α and targets.
    """

    family: ClassVar[str] = "lora"
    title: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank updates of linear layers, and the head"
    learning_rate: ClassVar[float] = 1e-3

    rank: int | None = None
    alpha: float | None = None
    targets: tuple[str, ...] = ()
    adapter: Path | None = field(default=None, metadata={"option": False})

    def prepare(self, model: PreTrainedModel) -> Prepared:
        """Put factors into the layers; B is zero at the start, so that nothing changes yet.

        Raises:
            InputError: A target matches nothing, or the rank is above a matrix's.
            ModelError: There is nothing to update, or the adapter is of another kind.
        """
        plain = share(model)
        wrapped = load_adapter(model, self.adapter) if self.adapter else self._make(model)
        config = wrapped.peft_config[ADAPTER]
        assert isinstance(config, LoraConfig)
        if config.bias != "none":
            raise ModelError(
                f"{self.adapter} updates biases too",
                "Merge it into its model with peft's `merge_and_unload`, and export that",
            )
        trained = [f"{name}." for name in unwrap_saved_modules(model)]
        merges = []
        for name, layer in self._updated_layers(model):
            if self.adapter:
                _unfold_factors(name, layer)
            merges.append(_take_factors(model, name, layer))
        trained += [part for merge in merges for part in merge.parts]
        train_only(model, [n for n, _ in model.named_parameters() if n.startswith(tuple(trained))])
        return Prepared(inference=plain, merges=merges, peft=config)

    def _make(self, model: PreTrainedModel) -> PeftModel:
        rank = _RANK if self.rank is None else self.rank
        targets = choose_targets(model, self.targets)
        _check_rank(model, targets, rank)
        alpha = 2 * rank if self.alpha is None else self.alpha
        if not 0 < alpha < math.inf:
            raise InputError(f"--lora-alpha {alpha:g} leaves nothing to train", "Give 2 × the rank")
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=targets,
            fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
            modules_to_save=head_modules(model),
        )
        with silence_transformers(), without_warnings():
            return get_peft_model(model, config)

    def _updated_layers(self, model: PreTrainedModel) -> list[tuple[str, PeftLinear]]:
        layers = []
        for name, layer in model.named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            if isinstance(layer, PeftLinear) and not (
                layer.lora_variant or layer.lora_bias[ADAPTER]
            ):
                layers.append((name, layer))
            elif self.adapter:
                raise ModelError(
                    f"The adapter updates {name} otherwise than by two low-rank factors",
                    "Merge it into its model with peft's `merge_and_unload`, and export that",
                )
            else:  # as in DeepSeek, whose shared experts have the names of others
                raise ModelError(
                    f"peft takes some of the targets for {name}, which it updates otherwise",
                    "Name others with --lora-targets, those of the attention for example",
                )
        return layers


@torch.no_grad()
def merge_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The plain model that a model with an adapter computes, for another way to start from.

    Args:
        model: Plain or fused; it is of no use afterwards.
        adapter: A directory that peft saved.

    Raises:
        ModelError: The adapter does not fit the model, or is of another kind.
    """
    prepared = Lora(adapter=adapter).prepare(model)
    plain = prepared.inference
    assert plain is not None
    for name, parameter in plain.named_parameters():  # a head that came with the adapter
        parameter.copy_(model.get_parameter(name))
    for merge in prepared.merges:
        assert isinstance(merge, LowRankUpdate)
        update = merge.scale * model.get_parameter(merge.b) @ model.get_parameter(merge.a)
        plain.get_parameter(merge.weight).add_(update.T if merge.transposed else update)
    return plain


def _check_rank(model: PreTrainedModel, targets: list[str], rank: int) -> None:
    if rank < 1:
        raise InputError(f"--lora-rank {rank} leaves nothing to train", "Give 8, or less")
    shapes = {name: model.get_parameter(f"{name}.weight").shape for name in targets}
    smallest = min(shapes, key=lambda name: min(shapes[name]))
    rows, columns = shapes[smallest]
    if rank > min(rows, columns):
        raise InputError(
            f"--lora-rank {rank} is above {min(rows, columns)}, the rank of "
            f"{smallest}, {rows} × {columns}",
            "Give a lower one, or leave that layer out with --lora-targets",
        )


def _unfold_factors(name: str, layer: PeftLinear) -> None:
    """Divide P out of what peft's A was trained to read: f, where ours reads P ⊙ f."""
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


def _take_factors(model: PreTrainedModel, name: str, layer: PeftLinear) -> LowRankUpdate:
    """Put a layer in the place of peft's around it, with its factors."""
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
