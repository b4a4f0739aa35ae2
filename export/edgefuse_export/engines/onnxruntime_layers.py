"""The stock onnxruntime, layer by layer: a pair of graphs a kind of layer."""

from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from edgefuse_export.engines.engine import TrainingContents, TrainingGraphs
from edgefuse_export.engines.onnxruntime import write_update
from edgefuse_export.passes.quantized_base import dequantize_first
from edgefuse_export.source import Source
from edgefuse_export.stacks.training import StackTraining, stack_training
from edgefuse_export.tasks.task import ExportTask
from edgefuse_runtime.engines.onnxruntime_layers import FOLDER, Layer, OnnxRuntimeLayers
from edgefuse_runtime.session import onnxruntime


class OnnxRuntimeLayersExport:
    """The graphs in the bundle's `layers/`, gradient_norm.onnx and optimizer.onnx."""

    keeps_few_bits: ClassVar[bool] = True

    def spec(self, graphs: TrainingGraphs | None = None) -> OnnxRuntimeLayers:
        """The engine, of the version that is installed here, and what its graphs are for."""
        version = onnxruntime().__version__
        if graphs is None:
            return OnnxRuntimeLayers(version=version, layers=[], lowest=0, by_token=False, kept=[])
        assert isinstance(graphs, StackTraining)
        parts = graphs.parts
        return OnnxRuntimeLayers(
            version=version,
            layers=[
                Layer(kind=kind, prefix=parts.stack.prefix(index), contexts=[*contexts])
                for index, (kind, contexts) in enumerate(
                    zip(parts.of_kind, parts.contexts, strict=True)
                )
            ],
            lowest=parts.lowest,
            by_token=graphs.by_token,
            kept=graphs.kept,
            keeps_rows=graphs.keeps_rows,
        )

    def refusal(self, task: ExportTask) -> str:  # noqa: ARG002 - it trains any
        """Nothing: whatever the loss is, it comes behind the stack."""
        return ""

    def graphs(self, source: Source) -> StackTraining:
        """The parts of the model."""
        return stack_training(source)

    def write(self, contents: TrainingContents) -> None:
        """Write the graphs."""
        assert isinstance(contents.graphs, StackTraining)
        folder, parts = contents.folder / FOLDER, contents.graphs.parts
        folder.mkdir()
        _save(parts.entrance, folder / "entrance.onnx")
        _save(parts.exit, folder / "exit.onnx")
        if parts.entrance_backward is not None:
            _save(parts.entrance_backward, folder / "entrance_backward.onnx")
        for number, kind in enumerate(parts.kinds):
            _save(kind.forward, folder / f"forward_{number}.onnx")
            if kind.backward is not None:
                _save(kind.backward, folder / f"backward_{number}.onnx")
            for name, graph in zip(("forward", "backward"), kind.keeping or (), strict=False):
                _save(graph, folder / f"keeping_{name}_{number}.onnx")
        write_update(contents)


def _save(graph: ir.Model, file: Path) -> None:
    dequantize_first(graph.graph)
    ir.save(graph, file)
