"""The compressed model directory: written folded, read back with P standalone.

    config.json, model.safetensors, tokenizer files    as transformers writes them, P folded
    edgefuse.json                                       the record, with P

Where a configuration can say all MLPs' widths, plain transformers loads it. Of other widths
(uneven ones, or of Bloom, whose MLPs are always four times as wide as its hidden states) the
configuration keeps the model's own and plain transformers refuses the tensors' sizes: only
`from_pretrained` here loads it.
"""

from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
)

from edgefuse.artifact.chains import load_chains
from edgefuse.artifact.fold import fold
from edgefuse.artifact.record import CompressionRecord, LayerRecord, read_record, write_record
from edgefuse.artifact.recorded_mlps import recorded_mlps
from edgefuse.artifact.widths import even_widths
from edgefuse.compression.methods.svd import factorise
from edgefuse.hub.copies import share
from edgefuse.hub.errors import translate_errors
from edgefuse.hub.model import check_sizes, check_weights
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_source
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.layers.fused import unfold
from edgefuse.mlps import low_rank
from edgefuse.mlps.install import install, resize
from edgefuse.mlps.mlp import MLP, find_mlps
from edgefuse.mlps.neurons import FusedNeurons
from edgefuse_devices.errors import ModelError

WEIGHTS = "model.safetensors"


def save_compressed(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: ModelTokenizer | None,
    record: CompressionRecord,
) -> None:
    """Write a fused model (P standalone; not changed) as a compressed model directory."""
    folded = share(model)
    fold(folded)
    _say_widths(folded, record)
    with silence_transformers():
        folded.save_pretrained(directory, max_shard_size="1TB")
        if tokenizer is not None:
            tokenizer.save(directory)
    write_record(directory, record)


def save_description(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: ModelTokenizer,
    record: CompressionRecord,
) -> None:
    """Write all of a compressed model directory but its weights.

    Args:
        directory: Has or gets the weights in `WEIGHTS`, float32.
        model: Of the fused widths; its own weights are not looked at. Its configuration changes.
        tokenizer: Its.
        record: What was done.
    """
    _say_widths(model, record)
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    with silence_transformers():
        model.config.save_pretrained(directory)
        if model.can_generate():
            model.generation_config.save_pretrained(directory)
        tokenizer.save(directory)
    write_record(directory, record)


def _say_widths(model: PreTrainedModel, record: CompressionRecord) -> None:
    if record.even:
        widths = [mlp.width for mlp in find_mlps(model)]
        for key, width in (even_widths(model, widths) or {}).items():
            setattr(model.config, key, width)


def from_pretrained(
    path: str | Path, auto_class: type[Any] = AutoModel, **kwargs: Any
) -> PreTrainedModel:
    """Load a model for training, float32: a compressed one with P standalone, or any plain one.

    Args:
        path: A compressed or a plain model's directory, or its name on the hub.
        auto_class: Such as `AutoModelForSequenceClassification`. Weights that the file does not
            have (a new head) are initialised; seed them with `torch.manual_seed`.
        **kwargs: As for transformers: `num_labels`, `id2label`, `attn_implementation`,
            `revision`, `dtype` …

    Returns:
        The model in evaluation mode. `edgefuse.multiplicities(model)` has P.

    Raises:
        ModelError: There is no such model, or it is broken or of a newer schema.
    """
    return load(find_source(str(path), kwargs.pop("revision", None)), auto_class, **kwargs)


def load(
    source: ModelSource,
    auto_class: type[Any] = AutoModel,
    *,
    dtype: torch.dtype | str = torch.float32,
    **kwargs: Any,
) -> PreTrainedModel:
    """The same of a model that is found already."""
    record = read_record(Path(source.name))
    if record is not None:
        own = torch.float32 if dtype == "auto" else dtype
        if isinstance(own, str):
            own = getattr(torch, own, None) or own
        if not isinstance(own, torch.dtype):
            raise ModelError(f"There is no type {own!r} of numbers", "Give torch.bfloat16, say")
        model = _compressed(Path(source.name), record, auto_class, **kwargs)
        return _cast(model, own)
    with silence_transformers(), translate_errors(source.name):
        model, info = auto_class.from_pretrained(
            source.name,
            revision=source.ref,
            dtype=dtype,
            output_loading_info=True,
            **{"trust_remote_code": False, "ignore_mismatched_sizes": True, **kwargs},
        )
    assert isinstance(model, PreTrainedModel)
    if not kwargs.get("ignore_mismatched_sizes"):
        check_sizes(model, info, source.name)
    check_weights(model, info, source.name, needs_head=False)
    return model


def _compressed(
    directory: Path, record: CompressionRecord, auto_class: type[Any], **kwargs: Any
) -> PreTrainedModel:
    """Load a compressed model, float32."""
    with silence_transformers(), translate_errors(str(directory)):
        config, kwargs = AutoConfig.from_pretrained(
            directory, return_unused_kwargs=True, **{"trust_remote_code": False, **kwargs}
        )
        kwargs |= {"config": config, "dtype": torch.float32}
        kind = _concrete(auto_class, config)
        if record.matrices:
            model, info = load_chains(kind, directory, record, **kwargs)
        else:
            loads = kind if record.even else _narrowed(kind, record)
            model, info = loads.from_pretrained(directory, output_loading_info=True, **kwargs)
    check_weights(model, info, str(directory), needs_head=False)
    if not record.matrices:
        model.__class__ = kind
        _stand_alone(model, record)
    return model


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Give what a file has another type, P too; what is computed anew stays as it is."""
    model.config.dtype = dtype
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return model


def _concrete(auto_class: type[Any], config: PretrainedConfig) -> type[Any]:
    """The architecture's own class: auto classes take no class of ours."""
    if issubclass(auto_class, PreTrainedModel):
        return auto_class
    with torch.device("meta"):
        return type(auto_class.from_config(config, trust_remote_code=False))


def _narrowed(kind: type[Any], record: CompressionRecord) -> type[Any]:
    """That class, with MLPs of the record's widths, which the configuration cannot say."""

    def init(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        pairs = recorded_mlps(self, record)
        resize([mlp for mlp, _ in pairs], [layer.width_after for _, layer in pairs])

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def _stand_alone(model: PreTrainedModel, record: CompressionRecord) -> None:
    """Divide P out of the weights and put it beside them."""
    pairs = recorded_mlps(model, record)
    products = [(mlp, layer) for mlp, layer in pairs if layer.kind == "low-rank"]
    low_rank.install_low_rank(
        [mlp for mlp, _ in products],
        [factorise(mlp.layer_view().neurons, layer.rank or 1) for mlp, layer in products],
    )
    pairs = [(mlp, layer) for mlp, layer in pairs if layer.kind == "fused"]
    for _, group in groupby(pairs, key=lambda pair: pair[0].layout.down.name):
        mlps, layers = zip(*group, strict=True)
        install(mlps, [_fused(mlp, layer) for mlp, layer in zip(mlps, layers, strict=True)])


def _fused(mlp: MLP, layer: LayerRecord) -> FusedNeurons:
    neurons = mlp.layer_view().neurons
    multiplicity = torch.tensor(layer.multiplicities, device=neurons.down.device)
    return FusedNeurons(neurons.with_down(unfold(neurons.down, multiplicity)), multiplicity)
