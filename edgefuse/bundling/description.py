"""What the manifest keeps of a model, beside its tensors."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, read_record
from edgefuse.bundling.source import Origin
from edgefuse.hub.model import empty_model
from edgefuse.layers.low_rank import LowRankLinear
from edgefuse.layers.separate_experts import Experts
from edgefuse.mlps.mlp import find_mlps
from edgefuse_runtime.bundle.manifest import ModelInfo


def describe(origin: Origin, plain: PreTrainedModel, *, parameters: int) -> ModelInfo:
    """Describe a model for the manifest.

    Args:
        origin: What it was loaded from.
        plain: The model with plain matrices in the place of chains.
        parameters: Count of the parameters of the model itself.
    """
    record = read_record(Path(origin.base.name))
    widths = _widths(plain)
    return ModelInfo(
        source=origin.label,
        architecture=plain.config.model_type,
        parameters=parameters,
        intermediate_sizes=widths,
        compression=record.method if record else None,
        not_plain=_not_plain(plain, record, widths),
    )


def _widths(model: PreTrainedModel) -> list[int]:
    """Widths of all MLPs; a low-rank one's is the configuration's, for it stays."""
    if any(isinstance(module, LowRankLinear) for module in model.modules()):
        return [mlp.width for mlp in find_mlps(empty_model(model.config))]
    return [mlp.width for mlp in find_mlps(model)]


def _not_plain(
    model: PreTrainedModel, record: CompressionRecord | None, widths: Sequence[int]
) -> str:
    """What keeps plain transformers from loading the model's weights, as the end of a sentence."""
    if any(isinstance(module, LowRankLinear) for module in model.modules()):
        return "has no matrices in two factors, and this model does"
    if record is not None and not record.even:
        sizes = sorted({*widths})
        if len(sizes) == 1:  # as XLM's, which are always four times as wide as its hidden states
            kind = model.config.model_type
            return f"has no setting for the width of a {kind} model's MLPs, here {sizes[0]}"
        return f"has one width for all MLPs, and this model has {', '.join(map(str, sizes))}"
    if any(isinstance(module, Experts) for module in model.modules()):
        return "has experts in one stack, and this model's are apart"
    return ""
