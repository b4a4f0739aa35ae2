"""The graphs of all optimizers, by their names."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from edgefuse_export.optimizers.adamw import adamw_graph

OPTIMIZER_GRAPHS: dict[str, Callable[[Any], ir.Model]] = {"adamw": adamw_graph}
