"""The compressed model directory: written folded, read back with P standalone.

    config.json, model.safetensors, tokenizer files    as transformers writes them, P folded
    edgefuse.json                                       the record, with P

Where all MLPs share one width, plain transformers loads it. With uneven widths the
configuration keeps the model's own width and plain transformers refuses the tensors' sizes:
only `from_pretrained` here loads it.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from edgefuse.compression.fused_linear import fold, unfold
from edgefuse.compression.fusion import install
from edgefuse.compression.mlp import find_mlps
from edgefuse.compression.neurons import FusedNeurons, Neurons
from edgefuse.models.load import find_source, one_sentence, quiet
from edgefuse.models.record import CompressionRecord, LayerRecord, read_record, write_record
from edgefuse_devices.errors import ModelError

_WEIGHTS = "model.safetensors"


def save_compressed(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    record: CompressionRecord,
) -> None:
    """Write a fused model (P standalone; not changed) as a compressed model directory."""
    folded = copy.deepcopy(model)
    fold(folded)
    blocks = find_mlps(folded)
    if record.even:
        setattr(folded.config, blocks[0].width_key, blocks[0].width)
    with quiet():
        folded.save_pretrained(directory, max_shard_size="1TB")
        shutil.copymode(directory / "config.json", directory / _WEIGHTS)  # safetensors: private
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
    write_record(directory, record)


def from_pretrained(
    path: str | Path, auto_class: type[Any] = AutoModel, **kwargs: Any
) -> PreTrainedModel:
    """Load a model for training, float32: a compressed one with P standalone, or any plain one.

    Args:
        path: A compressed model directory (one on the hub: download it first), a plain model's
            directory or a hub name.
        auto_class: Such as `AutoModelForSequenceClassification`. Weights that the file does not
            have (a new head) are initialised; seed them with `torch.manual_seed`.
        **kwargs: As for transformers: `num_labels`, `id2label`, `attn_implementation`,
            `revision` …

    Returns:
        The model in evaluation mode. `edgefuse.multiplicities(model)` has P.

    Raises:
        ModelError: There is no such model, or it is broken or of a newer schema.
    """
    source = find_source(str(path), kwargs.pop("revision", None))
    directory = Path(source.name)
    record = read_record(directory)
    kwargs.setdefault("dtype", torch.float32)
    with quiet(), one_sentence(str(path)):
        if record is None:
            return _whole(
                auto_class.from_pretrained(
                    source.name,
                    revision=source.revision or "main",
                    output_loading_info=True,
                    **kwargs,
                )
            )
        tensors = load_file(directory / _WEIGHTS)
        for layer in record.layers if not record.even else ():
            _pad(tensors, layer)
        config, kwargs = AutoConfig.from_pretrained(directory, return_unused_kwargs=True, **kwargs)
        kwargs.setdefault("dtype", torch.float32)  # the configuration has absorbed it
        kind = _concrete(auto_class, config)
        model = _whole(
            kind.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True, **kwargs
            )
        )
    _install_fused(model, record)
    return model


def _concrete(auto_class: type[Any], config: PretrainedConfig) -> type[Any]:
    """The architecture's own class: auto classes take no state dict."""
    if issubclass(auto_class, PreTrainedModel):
        return auto_class
    with torch.device("meta"):
        return type(auto_class.from_config(config))


def _pad(tensors: dict[str, Tensor], layer: LayerRecord) -> None:
    """Fill a narrowed block up with zeros, so that transformers takes it at the model's width."""
    missing = layer.width_before - layer.width_after
    for name, padding in (
        (f"{layer.up}.weight", (0, 0, 0, missing)),
        (f"{layer.up}.bias", (0, missing)),
        (f"{layer.down}.weight", (0, missing)),
    ):
        tensors[name] = F.pad(tensors[name], padding)


@torch.no_grad()
def _install_fused(model: PreTrainedModel, record: CompressionRecord) -> None:
    blocks = find_mlps(model)
    for layer in record.layers:
        block, k = blocks[layer.layer], layer.width_after
        multiplicity = torch.tensor(layer.cluster_sizes, dtype=block.down.weight.dtype)
        neurons = Neurons(
            up=block.up.weight[:k].clone(),
            up_bias=block.up.bias[:k].clone(),
            down=unfold(block.down.weight[:, :k], multiplicity),
        )
        install(model, block, FusedNeurons(neurons, multiplicity))


def _whole(loaded: tuple[object, dict[str, Any]]) -> PreTrainedModel:
    """The loaded model, if its file had every weight but those of a head and of a pooler."""
    model, info = loaded
    assert isinstance(model, PreTrainedModel)
    encoder = f"{model.base_model_prefix}." if model.base_model is not model else ""
    missing = sorted(
        key for key in info["missing_keys"] if key.startswith(encoder) and "pooler." not in key
    )
    if missing:
        raise ModelError(
            f"The model lacks {len(missing)} weights of its encoder, {missing[0]} for one",
            "Download or save the model again",
        )
    return model
