"""The stock onnxruntime: a gradient graph and an optimizer graph."""

from typing import ClassVar

import onnx_ir as ir

from edgefuse_export.engines.engine import TrainingContents
from edgefuse_export.optimizers.registry import OPTIMIZER_GRAPHS
from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.session import onnxruntime


class OnnxRuntimeExport:
    """train.onnx and optimizer.onnx."""

    shows_gradients: ClassVar[bool] = True

    def spec(self) -> OnnxRuntime:
        """The engine, of the version that is installed here."""
        return OnnxRuntime(version=onnxruntime().__version__)

    def write(self, contents: TrainingContents) -> None:
        """Write both graphs."""
        ir.save(contents.graph, contents.folder / "train.onnx")
        optimizer = OPTIMIZER_GRAPHS[contents.optimizer.name](contents.optimizer)
        ir.save(optimizer, contents.folder / "optimizer.onnx")
