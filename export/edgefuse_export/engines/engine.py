"""The engine seam: what a bundle has to hold for an engine, on the workstation's side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir
from torch import nn

from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.passes.norm_weights import NormWeight
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.engines.engine import EngineSpec
from edgefuse_runtime.graph.merges import Merge
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.optimizer import Optimizer


@dataclass(frozen=True)
class TrainingContents:
    """What an engine's files are made of.

    Attributes:
        folder: The bundle's directory.
        task: What the model is trained for.
        model: The model, float32, in evaluation mode, with eager attention.
        graph: The finished training graph.
        parameters: What trains.
        optimizer: The optimizer.
        fused: The model's fused blocks.
        merges: Recipes of weights that train in parts.
        norm_weights: Weights of the gradients in the norm, by parameter; others weigh 1.
        vocabulary: Token ids are below it.
    """

    folder: Path
    task: ExportTask
    model: nn.Module
    graph: ir.Model
    parameters: Sequence[Parameter]
    optimizer: Optimizer
    fused: Sequence[FusedMLP]
    merges: Sequence[Merge]
    norm_weights: Mapping[str, NormWeight]
    vocabulary: int


class EngineExport(Protocol):
    """An engine that bundles are exported for."""

    def spec(self) -> EngineSpec:
        """The same engine on the board's side, of the version that is installed here."""
        ...

    def refusal(self, task: ExportTask) -> str:
        """Why the engine cannot train a task; empty where it can."""
        ...

    def write(self, contents: TrainingContents) -> None:
        """Write the engine's files into the bundle.

        Raises:
            ModelError: The engine cannot train the model.
        """
        ...
