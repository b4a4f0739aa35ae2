"""Put fused neurons in their MLPs' place, for training."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.stand_ins import put_multiplicity
from edgefuse.mlps.layout import write_neurons
from edgefuse.mlps.mlp import MLP, by_stack
from edgefuse.mlps.neurons import FusedNeurons, Neurons


@torch.no_grad()
def install(mlps: Sequence[MLP], fused: Sequence[FusedNeurons]) -> None:
    """Put fused neurons in MLPs' place in their model, P standalone.

    `find_mlps` describes what is there afterwards: the MLPs given here are out of date.

    Args:
        mlps: MLPs of a plain model; of a stack of experts all or none.
        fused: Neurons for each one's place, of any width; all of a stack have the same. An
            `output_bias` takes b2's place where there is one.
    """
    place(mlps, fused)
    for group in by_stack(mlps):
        p = [fused[index].multiplicity for index in group]
        mlp = mlps[group[0]]
        multiplicity = p[0] if mlp.stack is None else torch.stack(p)
        put_multiplicity(mlp.model, mlp.layout.down.name, multiplicity)


def resize(mlps: Sequence[MLP], widths: Sequence[int]) -> None:
    """Give MLPs other widths, in place, without values: a model to load weights into.

    Args:
        mlps: MLPs of a plain model on the meta device; of a stack of experts all or none.
        widths: New I of each; the same for all of a stack.
    """
    place(mlps, [_empty(mlp, width) for mlp, width in zip(mlps, widths, strict=True)])


def place(mlps: Sequence[MLP], fused: Sequence[FusedNeurons]) -> None:
    """Give MLPs other tensors, of any width, in place, and leave P out.

    Args:
        mlps: MLPs of a plain model; of a stack of experts all or none.
        fused: Neurons whose tensors to take; all of a stack have the same width.
    """
    for name, tensor in write_neurons([m.layout for m in mlps], fused, folded=False).items():
        path, _, attribute = name.rpartition(".")
        module = mlps[0].model.get_submodule(path)
        old = getattr(module, attribute)
        assert len(old) == len(tensor) or old.ndim < 3, "a stack's experts go together"
        setattr(module, attribute, nn.Parameter(tensor.to(old)))
        if attribute == "weight" and isinstance(module, nn.Linear):
            module.out_features, module.in_features = tensor.shape
        elif attribute == "weight" and isinstance(module, Conv1D):
            module.nx, module.nf = tensor.shape


def _empty(mlp: MLP, width: int) -> FusedNeurons:
    p = mlp.hidden_size
    shapes = {
        "up": (width, p),
        "up_bias": (width,),
        "gate": (width, p),
        "gate_bias": (width,),
        "down": (p, width),
    }
    roles = mlp.layout.slots().keys() & shapes.keys()
    neurons = Neurons(**{role: torch.empty(shapes[role], device="meta") for role in roles})
    return FusedNeurons(neurons, torch.empty(width, device="meta"))
