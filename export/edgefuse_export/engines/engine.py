"""The engine seam: what a bundle has to hold for an engine, on the workstation's side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import onnx_ir as ir

from edgefuse_export.source import Source
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.engines.engine import EngineSpec
from edgefuse_runtime.graph.footprint import Footprint
from edgefuse_runtime.graph.parameters import Parameter


class TrainingGraphs(Protocol):
    """What an engine makes of a model."""

    @property
    def inference(self) -> ir.Model:
        """Batch and every tensor but P → outputs of the task."""
        ...

    @property
    def decoding(self) -> ir.Model | None:
        """What goes on behind tokens whose keys and values it is given; None for none.

        New tokens, keys and values, and every tensor but P → logits, keys and values.
        """
        ...

    @property
    def trainable(self) -> Sequence[str]:
        """Names of trained parameters, in the model's order."""
        ...

    def free_rows(self, name: str, *, padding_id: int) -> bool:
        """Let a trained embedding have any number of rows, in place, where that is the same.

        Args:
            name: A trained parameter.
            padding_id: The one token id that the graph may compare others with.

        Returns:
            Whether it now takes any number of rows.
        """
        ...

    def footprint(self) -> Footprint:
        """What a step holds besides tensors and gradients."""
        ...


@dataclass(frozen=True)
class TrainingContents:
    """What an engine's files are made of.

    Attributes:
        folder: The bundle's directory.
        source: The model, and how it trains.
        graphs: What the engine made of it.
        parameters: What trains.
    """

    folder: Path
    source: Source
    graphs: TrainingGraphs
    parameters: Sequence[Parameter]


class EngineExport(Protocol):
    """An engine that bundles are exported for.

    Attributes:
        keeps_few_bits: Whether its graphs take matrices that do not train in few bits.
    """

    keeps_few_bits: ClassVar[bool]

    def spec(self, graphs: TrainingGraphs | None = None) -> EngineSpec:
        """The same engine on the board's side, of the version that is installed here.

        Args:
            graphs: What `graphs` gave; None where it is only asked what the engine can do.
        """
        ...

    def refusal(self, task: ExportTask) -> str:
        """Why the engine cannot train a task; empty where it can."""
        ...

    def graphs(self, source: Source) -> TrainingGraphs:
        """Trace and differentiate a model.

        Raises:
            ModelError: The model cannot be traced or differentiated.
        """
        ...

    def write(self, contents: TrainingContents) -> None:
        """Write the engine's files into the bundle.

        Raises:
            ModelError: The engine cannot train the model.
        """
        ...
