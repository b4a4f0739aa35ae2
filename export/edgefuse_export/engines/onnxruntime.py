"""The stock onnxruntime: a gradient graph and an optimizer graph."""

from typing import ClassVar

import onnx_ir as ir

from edgefuse_export.engines.engine import TrainingContents, TrainingGraphs
from edgefuse_export.gradient import IR_VERSION, OPSET
from edgefuse_export.optimizers.registry import OPTIMIZER_GRAPHS
from edgefuse_export.passes.free_vocabulary import VOCABULARY
from edgefuse_export.passes.gradient_norm import add_norm
from edgefuse_export.source import Source
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.whole import WholeGraphs, whole_graphs
from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.session import onnxruntime


class OnnxRuntimeExport:
    """train.onnx, gradient_norm.onnx and optimizer.onnx."""

    keeps_few_bits: ClassVar[bool] = False

    def spec(self, graphs: TrainingGraphs | None = None) -> OnnxRuntime:  # noqa: ARG002
        """The engine, of the version that is installed here."""
        return OnnxRuntime(version=onnxruntime().__version__)

    def refusal(self, task: ExportTask) -> str:  # noqa: ARG002 - it trains any
        """Nothing: gradients of any loss are in the graph."""
        return ""

    def graphs(self, source: Source) -> WholeGraphs:
        """One graph of the whole model."""
        return whole_graphs(source)

    def write(self, contents: TrainingContents) -> None:
        """Write the graphs."""
        assert isinstance(contents.graphs, WholeGraphs)
        ir.save(contents.graphs.training, contents.folder / "train.onnx")
        write_update(contents)


def write_update(contents: TrainingContents) -> None:
    """Write what comes after gradients: gradient_norm.onnx and optimizer.onnx."""
    optimizer = contents.source.optimizer
    ir.save(_gradient_norm_graph(contents), contents.folder / "gradient_norm.onnx")
    ir.save(OPTIMIZER_GRAPHS[optimizer.name](optimizer), contents.folder / "optimizer.onnx")


def _gradient_norm_graph(contents: TrainingContents) -> ir.Model:
    """The norm alone, for gradients that were added up: every gradient → `gradient_norm`."""
    gradients = {parameter.name: _gradient(parameter) for parameter in contents.parameters}
    graph = ir.Graph(
        list(gradients.values()), [], nodes=[], opset_imports={"": OPSET}, name="gradient_norm"
    )
    graph.outputs.append(add_norm(graph, gradients, contents.source.norm_weights))
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgefuse")


def _gradient(parameter: Parameter) -> ir.Value:
    rows = VOCABULARY if parameter.free_rows else parameter.shape[0]
    shape = ir.Shape([rows, *parameter.shape[1:]])
    return ir.Value(name=parameter.gradient, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
