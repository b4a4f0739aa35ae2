"""Load a model for training, a compressed one or any plain one."""

from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, LayerRecord, read_record
from edgefuse.artifact.recorded_mlps import recorded_mlps
from edgefuse.artifact.save import VARIANT
from edgefuse.artifact.shape import give_shape
from edgefuse.hub.errors import translate_errors
from edgefuse.hub.model import check_sizes, check_weights, from_files
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_source
from edgefuse.layers.fused import unfold
from edgefuse.mlps.install import install
from edgefuse.mlps.mlp import MLP
from edgefuse.mlps.neurons import FusedNeurons
from edgefuse_devices.errors import ModelError


def from_pretrained(
    path: str | Path, auto_class: type[Any] = AutoModel, **kwargs: Any
) -> PreTrainedModel:
    """Load a model for training, float32: a compressed one with P standalone, or any plain one.

    Args:
        path: A compressed or a plain model's directory, a GGUF file, or a name on the hub.
        auto_class: Such as `AutoModelForSequenceClassification`. Weights that the file does not
            have (a new head) are initialised; seed them with `torch.manual_seed`.
        **kwargs: Options of transformers: `num_labels`, `id2label`, `attn_implementation`,
            `revision`, `dtype` …

    Returns:
        The model in evaluation mode. `edgefuse.multiplicities(model)` has P.

    Raises:
        ModelError: There is no such model, or it is broken, or of a schema that this EdgeFuse does
            not read.
    """
    return load(find_source(str(path), kwargs.pop("revision", None)), auto_class, **kwargs)


def load(
    source: ModelSource,
    auto_class: type[Any] = AutoModel,
    *,
    dtype: torch.dtype | str = torch.float32,
    needs_head: bool = False,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a model that was found already, as `from_pretrained` does.

    Args:
        source: The model.
        auto_class: Class of transformers that loads it.
        dtype: Type of its numbers.
        needs_head: Whether the model must bring the head of that class; else a new one will do.
        **kwargs: Options of transformers.

    Raises:
        ModelError: The model is broken, or lacks a head that it must bring.
    """
    record = read_record(Path(source.name))
    if record is not None:
        own = torch.float32 if dtype == "auto" else dtype
        if isinstance(own, str):
            own = getattr(torch, own, None) or own
        if not isinstance(own, torch.dtype):
            raise ModelError(f"There is no type {own!r} of numbers", "Give torch.bfloat16, say")
        model = _load_compressed(
            Path(source.name), record, auto_class, needs_head=needs_head, **kwargs
        )
        return _cast(model, own)
    options = {"trust_remote_code": False, "ignore_mismatched_sizes": True, **kwargs}
    model, info = from_files(source, auto_class, dtype=dtype, **options)
    if not kwargs.get("ignore_mismatched_sizes"):
        check_sizes(model, info, source.name)
    check_weights(model, info, source.name, needs_head=needs_head)
    return model


def _load_compressed(
    directory: Path,
    record: CompressionRecord,
    auto_class: type[Any],
    *,
    needs_head: bool,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a compressed model, float32: shape an empty one by its record, then load its tensors."""
    with silence_transformers(), translate_errors(str(directory)):
        config, kwargs = AutoConfig.from_pretrained(
            directory, return_unused_kwargs=True, **{"trust_remote_code": False, **kwargs}
        )
        kind = _concrete(auto_class, config)
        model, info = _shaped(kind, record).from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            variant=None if record.folded else VARIANT,
            output_loading_info=True,
            **kwargs,
        )
    check_weights(model, info, str(directory), needs_head=needs_head)
    model.__class__ = kind
    if record.folded:
        _unfold(model, record)
    assert isinstance(model, PreTrainedModel)
    return model


def _concrete(auto_class: type[Any], config: PretrainedConfig) -> type[Any]:
    """The architecture's own class: auto classes take no class of ours."""
    if issubclass(auto_class, PreTrainedModel):
        return auto_class
    with torch.device("meta"):
        return type(auto_class.from_config(config, trust_remote_code=False))


def _shaped(kind: type[Any], record: CompressionRecord) -> type[Any]:
    """A class like `kind` whose models have the record's shape."""

    def init(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        give_shape(self, record)

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def _unfold(model: PreTrainedModel, record: CompressionRecord) -> None:
    """Divide P out of the weights and put it beside them."""
    pairs = recorded_mlps(model, record)
    for _, group in groupby(pairs, key=lambda pair: pair[0].layout.down.name):
        mlps, layers = zip(*group, strict=True)
        install(mlps, [_fused(mlp, layer) for mlp, layer in zip(mlps, layers, strict=True)])


def _fused(mlp: MLP, layer: LayerRecord) -> FusedNeurons:
    neurons = mlp.layer_view().neurons
    multiplicity = torch.tensor(layer.multiplicities, device=neurons.down.device)
    return FusedNeurons(neurons.with_down(unfold(neurons.down, multiplicity)), multiplicity)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Give what a file has another type, P too; what is computed anew stays as it is."""
    model.config.dtype = dtype
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return model
