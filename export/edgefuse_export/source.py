"""What training graphs are made of."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import nn

from edgefuse_export.base.frozen import FrozenBase
from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.operators.dropout import Dropout
from edgefuse_export.passes.norm_weights import NormWeight, norm_weights
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.graph.merges import Merge
from edgefuse_runtime.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class Source:
    """A model with what is to train of it, and how.

    Attributes:
        task: What the model is trained for.
        model: A model with the task's head in evaluation mode, float32, with eager attention; the
            parameters that require a gradient are trained.
        inference: The model as it infers, where `merges` make that another one.
        merges: Recipes of the weights that `inference` has and `model` has in parts.
        fused: The model's fused blocks.
        optimizer: The optimizer.
        dropout: How training drops activations; None for not at all.
        vocabulary: Count of token ids.
        base: Matrices that do not train, in few bits; None where all stay float32.
    """

    task: ExportTask
    model: nn.Module
    inference: nn.Module | None
    merges: Sequence[Merge]
    fused: Sequence[FusedMLP]
    optimizer: Optimizer
    dropout: Dropout | None
    vocabulary: int
    base: FrozenBase | None = None

    @cached_property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Parameters and buffers of the model by name, the model's own memory."""
        return {name: value.numpy() for name, value in self.model.state_dict().items()}

    def frozen(self, trained: Collection[str]) -> dict[str, np.ndarray]:
        """What a bundle keeps of the tensors that do not train: a matrix or its codes and scales.

        Args:
            trained: Names of the parameters that do.
        """
        blocks = self.base.blocks if self.base else {}
        kept: dict[str, np.ndarray] = {}
        for name, tensor in self.tensors.items():
            if name not in trained:
                kept |= blocks[name].named(name) if name in blocks else {name: tensor}
        return kept

    @cached_property
    def neurons(self) -> Mapping[str, NormWeight]:
        """1/√n by parameter, where a row of it stands for n neurons."""
        return norm_weights(self.fused, self.merges, self.tensors)

    @property
    def norm_weights(self) -> Mapping[str, NormWeight]:
        """What gradients are multiplied by in the norm, where that is not 1.

        Where the optimizer follows the gradient, a row's is divided by its n neurons before, and so
        counts √n times.
        """
        if not self.optimizer.follows_gradient:
            return self.neurons
        return {name: weight.inverse for name, weight in self.neurons.items()}

    @property
    def shares(self) -> Mapping[str, np.ndarray]:
        """Parts of torch's gradients that training graphs give, where that is not the whole."""
        if not self.optimizer.follows_gradient:
            return {}
        return {
            name: weight.neurons(self.tensors[name].ndim) for name, weight in self.neurons.items()
        }
