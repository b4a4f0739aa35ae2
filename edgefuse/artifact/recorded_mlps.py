"""Find the MLPs of a model that its record describes."""

from torch import nn
from transformers import PreTrainedModel

from edgefuse.artifact.record import RECORD, CompressionRecord, LayerRecord
from edgefuse.mlps.mlp import MLP, find_mlps
from edgefuse_devices.errors import ModelError


def recorded_mlps(
    model: PreTrainedModel, record: CompressionRecord
) -> list[tuple[MLP, LayerRecord]]:
    """Pair the MLPs that a model has with their records: an encoder alone lacks its decoder's.

    Args:
        model: Plain model, of the widths before or after.
        record: Record of the model, or of one that it is a part of.

    Raises:
        ModelError: It has none of them.
    """
    if not record.layers:
        return []
    mlps = {own_name(model, mlp.name): mlp for mlp in find_mlps(model)}
    pairs = [(mlps.get(own_name(model, layer.name)), layer) for layer in record.layers]
    known = [(mlp, layer) for mlp, layer in pairs if mlp is not None]
    if not known:
        raise ModelError(
            f"{type(model).__name__} has none of the MLPs that {RECORD} describes",
            f"Load it as what it was compressed as, {record.architecture}",
        )
    return known


def own_name(model: nn.Module, name: str) -> str:
    """Cut off a module's name what a model with a head puts before it."""
    return name.removeprefix(f"{getattr(model, 'base_model_prefix', '')}.")
