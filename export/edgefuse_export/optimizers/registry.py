"""The graphs of all optimizers, by their names."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from edgefuse_export.optimizers.adafactor import adafactor_graph
from edgefuse_export.optimizers.adamw import adamw_graph
from edgefuse_export.optimizers.lion import lion_graph
from edgefuse_export.optimizers.sgd import sgd_graph

OPTIMIZER_GRAPHS: dict[str, Callable[[Any], ir.Model]] = {
    "adamw": adamw_graph,
    "sgd": sgd_graph,
    "lion": lion_graph,
    "adafactor": adafactor_graph,
}
