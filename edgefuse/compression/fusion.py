"""Fuse the MLP blocks of a model."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from edgefuse.compression.calibration import output_errors
from edgefuse.compression.fused_linear import FusedLinear
from edgefuse.compression.methods import Method
from edgefuse.compression.mlp import DenseMLP, find_mlps
from edgefuse.compression.neurons import FusedNeurons, Neurons
from edgefuse.compression.plan import LayerPlan
from edgefuse.models.record import LayerRecord

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fuse_model(
    model: "PreTrainedModel",
    layers: Sequence[LayerPlan],
    method: Method,
    *,
    seed: int = 0,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    calibration: Sequence[str] = (),
    on_layer: Callable[[], None] = lambda: None,
) -> tuple[LayerRecord, ...]:
    """Fuse blocks in place, P standalone.

    Args:
        model: Unfused, float32, in evaluation mode.
        layers: What `plan_layers` made for this model.
        method: From `edgefuse.compression.methods`.
        seed: Of the method.
        tokenizer: The model's; needed with `calibration`.
        calibration: Texts to measure each block's output error on.
        on_layer: Called after each layer.

    Returns:
        A record for every fused block.
    """
    blocks = find_mlps(model)
    fused: dict[int, FusedNeurons] = {}
    for layer in layers:
        fused[layer.layer] = method.fuse(neurons_of(blocks[layer.layer]), layer.width_after, seed)
        on_layer()
    chosen = [blocks[layer] for layer in fused]
    errors: dict[int, float] = {}
    if calibration:
        assert tokenizer is not None
        errors = output_errors(model, tokenizer, chosen, fused, calibration)
    for block in chosen:
        install(model, block, fused[block.layer])
    return tuple(
        LayerRecord(
            layer=plan.layer,
            up=blocks[plan.layer].up_name,
            down=blocks[plan.layer].down_name,
            width_before=plan.width_before,
            width_after=plan.width_after,
            parameters_before=plan.parameters_before,
            parameters_after=plan.parameters_after,
            cluster_sizes=fused[plan.layer].multiplicity.int().tolist(),
            output_error=errors.get(plan.layer),
        )
        for plan in layers
    )


def neurons_of(block: DenseMLP) -> Neurons:
    """A block's own neurons, detached."""
    return Neurons(
        up=block.up.weight.detach(),
        up_bias=block.up.bias.detach(),
        down=block.down.weight.detach(),
    )


def install(model: nn.Module, block: DenseMLP, fused: FusedNeurons) -> None:
    """Put fused neurons in a block's place, b2 left alone."""
    neurons = fused.neurons
    assert neurons.up_bias is not None
    model.set_submodule(block.up_name, _linear(neurons.up, neurons.up_bias))
    bias = None if block.down.bias is None else block.down.bias.detach()
    model.set_submodule(block.down_name, FusedLinear(neurons.down, bias, fused.multiplicity))


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
