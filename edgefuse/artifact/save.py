"""Write a compressed model directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from edgefuse.artifact.record import CompressionRecord, write_record
from edgefuse.artifact.widths import even_widths
from edgefuse.hub.copies import share
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.layers.stand_ins import fold
from edgefuse.mlps.mlp import find_mlps

VARIANT = "edgefuse"
"""Variant, in transformers' sense, of weights that are stored as they train."""

PLAIN_WEIGHTS = "model.safetensors"
TRAINED_WEIGHTS = f"model.{VARIANT}.safetensors"
SPECTRA = "spectra.safetensors"


def save_compressed(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: ModelTokenizer | None,
    record: CompressionRecord,
) -> None:
    """Write a compressed model.

    Args:
        directory: Directory that exists and is empty.
        model: Model with P standalone, thin matrices or chains; it is not changed.
        tokenizer: Tokenizer of the model.
        record: What was done.
    """
    stored = share(model)
    if record.folded:
        fold(stored)
        _write_widths(stored, record)
        with silence_transformers():
            stored.save_pretrained(directory, max_shard_size="1TB")
    else:
        tensors = remove_tied_weights_from_state_dict(dict(stored.state_dict()), stored)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, directory / TRAINED_WEIGHTS, {"format": "pt"})
        _save_configuration(directory, stored)
    if tokenizer is not None:
        tokenizer.save(directory)
    write_record(directory, record)


def save_spectra(directory: Path, spectra: Mapping[str, Sequence[Tensor]]) -> None:
    """Write λ_1 … λ_4 of matrices, by their names, beside the chains that were made of them."""
    tensors = {
        f"{name}.{m}": spectrum.float().contiguous()
        for name, of_matrix in spectra.items()
        for m, spectrum in enumerate(of_matrix)
    }
    save_file(tensors, directory / SPECTRA, {"format": "pt"})


def save_description(
    directory: Path, model: PreTrainedModel, tokenizer: ModelTokenizer, record: CompressionRecord
) -> None:
    """Write all of a compressed model directory but its weights, float32, which are there.

    Args:
        directory: Directory with the weights.
        model: Plain model of the widths afterwards, whose weights are not looked at; its
            configuration changes.
        tokenizer: Tokenizer of the model.
        record: What was done.
    """
    _write_widths(model, record)
    _save_configuration(directory, model)
    tokenizer.save(directory)
    write_record(directory, record)


def _write_widths(model: PreTrainedModel, record: CompressionRecord) -> None:
    if record.even:
        widths = [mlp.width for mlp in find_mlps(model)]
        for key, width in (even_widths(model, widths) or {}).items():
            setattr(model.config, key, width)


def _save_configuration(directory: Path, model: PreTrainedModel) -> None:
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    with silence_transformers():
        model.config.save_pretrained(directory)
        if model.can_generate():
            model.generation_config.save_pretrained(directory)
