"""A model with chains as a directory: its tensors as they train, P standalone too.

    config.json, tokenizer files    as transformers writes them
    model.mpo.safetensors           every tensor of the model, chains as `central`, `auxiliary.0` …
    spectra.safetensors             λ of every bond before it was cut: NAME.0 … NAME.3
    edgefuse.json                   the record

The weights' name has transformers' own form for a variant. Plain transformers looks for
model.safetensors and says that it is not there, where it would otherwise make up the matrices.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from edgefuse.artifact.record import CompressionRecord, MatrixRecord, write_record
from edgefuse.artifact.recorded_mlps import recorded_mlps
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.layers.chains.modules import Chain
from edgefuse.layers.fused import multiply
from edgefuse.mlps.install import resize
from edgefuse.mlps.matrices import place_chains
from edgefuse.mlps.unstack import unstack

VARIANT = "mpo"
WEIGHTS = f"model.{VARIANT}.safetensors"
SPECTRA = "spectra.safetensors"


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
    files = {WEIGHTS: tensors}
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


def load_chains(
    kind: type[PreTrainedModel],
    directory: Path,
    record: CompressionRecord,
    *,
    config: PretrainedConfig,
    **kwargs: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load what `save_chains` wrote, with whatever head the class has.

    Args:
        kind: The architecture's class.
        directory: With the weights.
        record: Its record.
        config: Its configuration.
        **kwargs: As for `from_pretrained`.

    Returns:
        The model in evaluation mode, and transformers' account of what its file lacked.
    """

    def init(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        give_widths(self, record)
        if any(matrix.kind == "mlp" for matrix in record.matrices):
            unstack(self)
        _place_empty_chains(self, record.matrices)

    chained = type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})
    model, info = chained.from_pretrained(  # type: ignore[attr-defined]
        directory, config=config, variant=VARIANT, output_loading_info=True, **kwargs
    )
    model.__class__ = kind
    return model, info


def give_widths(model: PreTrainedModel, record: CompressionRecord) -> None:
    """Give the fused MLPs of an empty model their widths and P, in place; values are for later."""
    if not record.layers:
        return
    fused = recorded_mlps(model, record)
    resize([mlp for mlp, _ in fused], [layer.width_after for _, layer in fused])
    for name, group in groupby(fused, key=lambda pair: pair[0].layout.down.name):
        members = list(group)
        slot = members[0][0].layout.down
        p = [torch.tensor(layer.multiplicities) for _, layer in members]
        multiplicity = p[0] if slot.expert is None else torch.stack(p)
        multiply(model, name, multiplicity, transposed=slot.transposed)


def _place_empty_chains(model: PreTrainedModel, matrices: Sequence[MatrixRecord]) -> None:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."

    def here(name: str) -> str:
        """The name that a module has under this head, or under none."""
        return next(n for n in (name, prefix + name, name.removeprefix(prefix)) if n in modules)

    place_chains(model, ((here(one.name), _empty_tensors(one)) for one in matrices))
    for matrix in matrices:
        if matrix.shares_central_of is not None:
            chain = model.get_submodule(here(matrix.name))
            leader = model.get_submodule(here(matrix.shares_central_of))
            assert isinstance(chain, Chain)
            assert isinstance(leader, Chain)
            chain.follow(leader)


def _empty_tensors(matrix: MatrixRecord) -> list[Tensor]:
    """T_1 … T_5 without values, which take the device of the matrix in whose place they come."""
    shapes = zip(
        pairwise((1, *matrix.bonds, 1)),
        matrix.row_dimensions,
        matrix.column_dimensions,
        strict=True,
    )
    return [torch.empty(a, i, j, b) for (a, b), i, j in shapes]
