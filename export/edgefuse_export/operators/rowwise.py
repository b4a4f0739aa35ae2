"""Element-wise work row by row of the batch, so that what is between two steps stays in cache.

An operator of ONNX Runtime reads and writes whole tensors: ten element-wise steps over the
activations of a batch are ten trips to main memory. A Scan over the batch makes them over one row
at a time, which fits into a core's cache, and holds one row of temporaries instead of a batch.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import tape
from onnxscript import opset21 as op

Emit = Callable[..., ir.Value]
"""`emit("Mul", x, 0.5)`: adds an operator; numbers become float constants."""


def rowwise(name: str, body: Callable[..., ir.Value], *inputs: Any) -> Any:
    """Apply a function of tensors to every row of the first axis, and stack what it gives.

    Args:
        name: Name of the body.
        body: Function of `Emit` and one value an input, of the input's shape without first axis.
        inputs: Float tensors of the shape (batch, …).

    Returns:
        The stacked rows, of the shape (batch, …).
    """
    float32 = ir.TensorType(ir.DataType.FLOAT)
    recorder = tape.Tape()

    def emit(kind: str, *arguments: ir.Value | float | np.ndarray, **attributes: Any) -> ir.Value:
        values = [
            argument
            if isinstance(argument, ir.Value)
            else recorder.initializer(_constant(argument, f"{name}.{argument}"))
            for argument in arguments
        ]
        output = recorder.op(kind, values, attributes)
        output.name = f"{name}.{len(recorder.nodes)}"
        return output

    rows = [
        ir.Value(name=f"{name}.row{index}", type=float32, shape=ir.Shape([*value.shape[1:]]))
        for index, value in enumerate(inputs)
    ]
    result = body(emit, *rows)
    result.type, result.shape = float32, rows[0].shape
    graph = ir.Graph(
        rows, [result], nodes=recorder.nodes, initializers=recorder.initializers, name=name
    )
    return op.Scan(*inputs, body=graph, num_scan_inputs=len(inputs))


def _constant(value: float | np.ndarray, name: str) -> ir.TensorProtocol:
    if isinstance(value, np.ndarray):
        return ir.tensor(value, name=name)
    return ir.tensor(value, dtype=ir.DataType.FLOAT, name=name)
