"""Products with matrices in few bits that make no floats of them: ONNX Runtime's MatMulNBits.

Before → after, for a matrix W of blocks along its last axis:

    MatMul(x, Transpose(DequantizeLinear(W.quantized, …)))  →  MatMulNBits(x, W.factor, …)

It is many times faster at the few tokens that are written at a time, and rounds x to 8 bits for it
(`accuracy_level` 4). The operator packs its matrix when a session is opened, and only if it is an
initializer. Which it is here without data: whoever opens the graph gives them
(`SessionOptions.add_external_initializers`), as `Blocks.factors` makes them.
"""

import math

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgefuse_runtime.graph.base import (
    BITS,
    BLOCK,
    Precision,
    factor_of,
    factor_scale_of,
    matrix_of,
    scale_of,
)

_DOMAIN = "com.microsoft"
_IN_8_BITS = 4
_SWAPPED = (1, 0)
_ELSEWHERE = "given-when-opened"
"""ONNX has no initializer without data but in another file: this one is never looked for."""

_PRECISIONS: dict[ir.DataType | None, Precision] = {
    ir.DataType.INT8: "int8",
    ir.DataType.INT4: "int4",
}


def multiply_codes(model: ir.Model) -> list[str]:
    """Multiply by codes wherever a product's floats were made of them, in place.

    Args:
        model: A graph that `read_quantized` changed.

    Returns:
        Names of the matrices, whose codes and scales are no inputs now but where others read them.
    """
    graph = model.graph
    multiplied: dict[str, tuple[ir.Value, ir.Value]] = {}
    for node in [node for node in graph if node.op_type == "MatMul"]:
        codes = _codes_that_are_multiplied(node)
        if codes is None:
            continue
        name = matrix_of(str(codes.name))
        if name not in multiplied:
            multiplied[name] = _initializers(graph, name, codes)
        _multiply(graph, node, codes, multiplied[name])
    RemoveUnusedNodesPass()(model)
    for value in [*graph.inputs]:
        name = str(value.name)
        if not value.uses() and (
            matrix_of(name) in multiplied or name in map(scale_of, multiplied)
        ):
            graph.inputs.remove(value)
    return [*multiplied]


def _codes_that_are_multiplied(product: ir.Node) -> ir.Value | None:
    """The input of a graph whose floats, transposed, are a product's second factor."""
    factor = product.inputs[1]
    turned = factor.producer() if factor is not None else None
    if turned is None or turned.op_type != "Transpose" or turned.inputs[0] is None:
        return None
    made = turned.inputs[0].producer()
    if made is None or made.op_type != "DequantizeLinear":
        return None
    codes = made.inputs[0]
    assert codes is not None
    swaps = tuple(turned.attributes.get_ints("perm")) == _SWAPPED
    return codes if swaps and codes.is_graph_input() else None


def _initializers(graph: ir.Graph, name: str, codes: ir.Value) -> tuple[ir.Value, ir.Value]:
    """What a matrix is multiplied by, without data."""
    assert codes.shape is not None
    rows, columns = codes.shape.numpy()
    blocks = columns // BLOCK
    size = BLOCK * BITS[_PRECISIONS[codes.dtype]] // 8
    return (
        _without_data(graph, factor_of(name), ir.DataType.UINT8, (rows, blocks, size)),
        _without_data(graph, factor_scale_of(name), ir.DataType.FLOAT, (rows, blocks)),
    )


def _without_data(
    graph: ir.Graph, name: str, kind: ir.DataType, sizes: tuple[int, ...]
) -> ir.Value:
    shape = ir.Shape(sizes)
    tensor = ir.ExternalTensor(
        _ELSEWHERE, 0, math.prod(sizes) * int(kind.itemsize), kind, shape=shape, name=name
    )
    value = ir.Value(name=name, type=ir.TensorType(kind), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _multiply(
    graph: ir.Graph, product: ir.Node, codes: ir.Value, factor: tuple[ir.Value, ir.Value]
) -> None:
    assert codes.shape is not None
    rows, columns = codes.shape.numpy()
    made, left = product.outputs[0], product.inputs[0]
    name = str(made.name)
    made.name = f"{name}.in_floats"
    output = ir.Value(name=name, type=made.type, shape=made.shape)
    node = ir.node(
        "MatMulNBits",
        [left, *factor],
        attributes={
            "K": columns,
            "N": rows,
            "bits": BITS[_PRECISIONS[codes.dtype]],
            "block_size": BLOCK,
            "accuracy_level": _IN_8_BITS,
        },
        domain=_DOMAIN,
        outputs=[output],
    )
    graph.insert_before(product, node)
    made.replace_all_uses_with(output, replace_graph_outputs=True)
    graph.remove(product, safe=True)
