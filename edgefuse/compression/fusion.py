"""Fuse the MLP blocks of a model."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgefuse.compression.calibration import output_errors
from edgefuse.compression.install import install
from edgefuse.compression.methods import Method
from edgefuse.compression.mlp import find_mlps
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
    mlps = {(mlp.layer, mlp.expert): mlp for mlp in find_mlps(model)}
    chosen = [mlps[plan.layer, plan.expert] for plan in layers]
    fused = []
    for mlp, plan in zip(chosen, layers, strict=True):
        fused.append(method.fuse(mlp.layer_view().neurons, plan.width_after, seed))
        on_layer()
    errors: list[float] | None = None
    if calibration:
        assert tokenizer is not None
        errors = output_errors(model, tokenizer, chosen, fused, calibration)
    install(chosen, fused)
    return tuple(
        LayerRecord(
            **vars(plan),
            multiplicities=one.multiplicity.tolist(),
            output_error=errors[index] if errors else None,
        )
        for index, (plan, one) in enumerate(zip(layers, fused, strict=True))
    )
