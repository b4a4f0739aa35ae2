"""All engines."""

from edgefuse_runtime.engines.engine import EngineSpec
from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.engines.onnxruntime_layers import OnnxRuntimeLayers
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTraining

ENGINES: tuple[type[EngineSpec], ...] = (OnnxRuntime, OnnxRuntimeLayers, OnnxRuntimeTraining)
