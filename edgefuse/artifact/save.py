"""The compressed model directory: written folded, read back with P standalone.

    config.json, model.safetensors, tokenizer files    as transformers writes them, P folded
    edgefuse.json                                       the record, with P

Where a configuration can say all MLPs' widths, plain transformers loads it. Of other widths
(uneven ones, or of Bloom, whose MLPs are always four times as wide as its hidden states) the
configuration keeps the model's own and plain transformers refuses the tensors' sizes: only
`from_pretrained` here loads it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from edgefuse.artifact.record import (
    CompressionRecord,
    write_record,
)
from edgefuse.artifact.widths import even_widths
from edgefuse.hub.copies import share
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.layers.stand_ins import fold
from edgefuse.mlps.mlp import find_mlps

WEIGHTS = "model.safetensors"
VARIANT = "mpo"
VARIANT_WEIGHTS = f"model.{VARIANT}.safetensors"
SPECTRA = "spectra.safetensors"


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


def save_chains(
    directory: Path,
    model: PreTrainedModel,
    tokenizer: ModelTokenizer,
    record: CompressionRecord,
    spectra: Mapping[str, Sequence[Tensor]] | None = None,
) -> None:
    """Write a model with chains.

    Args:
        directory: Exists and is empty.
        model: With chains in their places; its configuration says its even widths already.
        tokenizer: Its.
        record: What was done.
        spectra: λ_1 … λ_4 of every matrix by its name, where they are known.
    """
    tensors = remove_tied_weights_from_state_dict(dict(model.state_dict()), model)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    files = {VARIANT_WEIGHTS: tensors}
    if spectra is not None:
        files[SPECTRA] = {
            f"{name}.{m}": spectrum.float().contiguous()
            for name, of_matrix in spectra.items()
            for m, spectrum in enumerate(of_matrix)
        }
    for file, content in files.items():
        save_file(content, directory / file, {"format": "pt"})
    model.config.dtype = "float32"
    model.config.architectures = [type(model).__name__]
    with silence_transformers():
        model.config.save_pretrained(directory)
        if model.can_generate():
            model.generation_config.save_pretrained(directory)
        tokenizer.save(directory)
    write_record(directory, record)
