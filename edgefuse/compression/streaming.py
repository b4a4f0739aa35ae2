"""Compress a model from its files, an MLP at a time: also one that is larger than memory."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from edgefuse.artifact.record import LayerRecord
from edgefuse.compression.fusion import layer_record
from edgefuse.compression.plan import LayerPlan
from edgefuse.compression.progress import FUSING
from edgefuse.compression.recipe import Recipe
from edgefuse.hub.device import computing_on, fastest
from edgefuse.hub.finite import check_finite
from edgefuse.hub.model import empty_model
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource
from edgefuse.hub.tensor_files import TensorFiles, find_tensor_files, write_shards
from edgefuse.mlps.file_layouts import stored_layouts
from edgefuse.mlps.install import resize
from edgefuse.mlps.layout import write_neurons
from edgefuse.mlps.low_rank import LowRank, write_low_rank
from edgefuse.mlps.mlp import by_stack, find_mlps
from edgefuse_runtime.progress import OnProgress, silent


@dataclass(frozen=True)
class StoredModel:
    """A model that stays in its files.

    Attributes:
        model: The model without weights.
        files: Files with the weights.
        names: Names of the tensors in the files that are the model's; there may be others.
    """

    model: PreTrainedModel
    files: TensorFiles
    names: tuple[str, ...]


def open_stored(source: ModelSource, config: PretrainedConfig) -> StoredModel | None:
    """Describe a model in safetensors files.

    Returns:
        None where transformers would have to make something of the files first: they are of
        another format, or their tensors differ from those that it would save.

    Raises:
        ModelError: The files are broken.
    """
    files = find_tensor_files(source)
    if files is None:
        return None
    model = empty_model(deepcopy(config))  # it will have the fused widths
    whole = dict(model.state_dict())
    tensors = remove_tied_weights_from_state_dict(dict(whole), model)
    saved = revert_weight_conversion(model, tensors)
    if any(files.shapes.get(name) != tuple(tensor.shape) for name, tensor in saved.items()):
        return None
    if model.can_generate():
        with silence_transformers(), suppress(OSError):  # it may have none of its own
            model.generation_config = GenerationConfig.from_pretrained(
                source.name, revision=source.ref
            )
    # What transformers ties, files may have apart, as Flan-T5's have the head.
    apart = (name for name in whole.keys() - tensors.keys() if name in files.shapes)
    return StoredModel(model, files, (*saved, *sorted(apart)))


@torch.no_grad()
def fuse_stored(
    stored: StoredModel,
    layers: Sequence[LayerPlan],
    recipe: Recipe,
    directory: Path,
    *,
    variant: str | None = None,
    on_progress: OnProgress = silent,
) -> tuple[LayerRecord, ...]:
    """Fuse MLPs and write the model's tensors, P folded, as `fuse_model` and saving would.

    In memory there is one MLP at a time, of experts that lie in one stack the stack, and one shard.

    Args:
        stored: The model, which is given the MLPs' new widths.
        layers: What `plan_layers` made for this model.
        recipe: What is done to each MLP, without text.
        directory: Directory to write to.
        variant: Variant of the files' names, where the tensors are not for plain transformers.
        on_progress: Observer, called after each MLP.

    Returns:
        A record for every fused MLP.

    Raises:
        InputError: The method does not suit an MLP.
        ModelError: A weight is NaN or infinite.
    """
    mlps = find_mlps(stored.model)
    layouts = stored_layouts(mlps, stored.names)
    found = {mlp.name: replace(mlp, layout=s) for mlp, s in zip(mlps, layouts, strict=True)}
    chosen = [found[plan.name] for plan in layers]
    replaced: set[str] = set()
    records: list[LayerRecord] = []

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for group in by_stack(chosen):
            fused = []
            for index in group:
                mlp, plan = chosen[index], layers[index]
                layer = mlp.read(stored.files.read).to(device)
                one = recipe.reduce(layer, plan.width_after)
                records.append(layer_record(plan, layer.bias, one))
                on_progress(FUSING, len(records), len(layers))
                if isinstance(one, LowRank):
                    replaced.update(slot.name for slot in mlp.layout.slots().values())
                    yield from write_low_rank(mlp.layout, one, layer.bias).items()
                else:
                    fused.append(one)
            if fused:
                named = write_neurons([chosen[i].layout for i in group], fused, folded=True)
                replaced.update(named)
                yield from named.items()
        for name in stored.names:
            if name not in replaced:
                tensor = stored.files.read(name)
                check_finite(tensor, type(stored.model).__name__, name)
                yield name, tensor

    device = fastest()
    with computing_on(device):
        write_shards(directory, tensors(), variant=variant)
    own = {mlp.name: mlp for mlp in mlps}
    resize([own[record.name] for record in records], [r.width_after for r in records])
    return tuple(records)
