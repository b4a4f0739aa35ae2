"""All engines, by their names."""

from edgefuse_export.engines.engine import EngineExport
from edgefuse_export.engines.onnxruntime import OnnxRuntimeExport
from edgefuse_export.engines.onnxruntime_layers import OnnxRuntimeLayersExport
from edgefuse_export.engines.onnxruntime_training import OnnxRuntimeTrainingExport

ENGINE_EXPORTS: dict[str, EngineExport] = {
    "onnxruntime": OnnxRuntimeExport(),
    "onnxruntime-layers": OnnxRuntimeLayersExport(),
    "onnxruntime-training": OnnxRuntimeTrainingExport(),
}
