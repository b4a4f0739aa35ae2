"""Products with matrices in few bits that make no floats of them: ONNX Runtime's MatMulNBits.

Before → after, for a matrix W of blocks along its last axis:

    MatMul(x, Transpose(floats(W.quantized, …)))  →  MatMulNBits(x, W.factor, …)

`quantized_base` says what floats are made by.

Where W has minima, they are multiplied by the sum of x over each block:

    … + MatMul(MatMul(x, ones of each block), W.factor_minimum)

It is many times faster at the few tokens that are written at a time, and rounds x to 8 bits for it
(`accuracy_level` 4). The operator packs its matrix when a session is opened, and only if it is an
initializer. Which it is here without data: whoever opens the graph gives them
(`SessionOptions.add_external_initializers`), as `Blocks.factors` makes them.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgefuse_runtime.graph.base import (
    BITS,
    BLOCK,
    Precision,
    codes_of,
    factor_minimum_of,
    factor_of,
    factor_scale_of,
    is_few_bits,
    matrix_of,
    minimum_of,
    scale_of,
)

_DOMAIN = "com.microsoft"
_IN_8_BITS = 4
_SWAPPED = (1, 0)
_MAKING = {"Add", "Concat", "DequantizeLinear", "BitwiseAnd", "BitwiseXor", "Reshape", "Unsqueeze"}
"""Operators by which floats are made; the first input of each comes of the codes."""

_ELSEWHERE = "given-when-opened"
"""ONNX has no initializer without data but in another file: this one is never looked for."""

_PRECISIONS: dict[ir.DataType | None, Precision] = {
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int4",
}


def multiply_codes(model: ir.Model) -> list[str]:
    """Multiply by codes wherever a product's floats were made of them, in place.

    Args:
        model: A graph that `read_quantized` changed.

    Returns:
        Names of the matrices, whose codes and scales are no inputs now but where others read them.
    """
    graph = model.graph
    multiplied: dict[str, _Factor] = {}
    for node in [node for node in graph if node.op_type == "MatMul"]:
        codes = _codes_that_are_multiplied(node)
        if codes is None:
            continue
        name = matrix_of(str(codes.name))
        if name not in multiplied:
            minima = any(value.name == minimum_of(name) for value in graph.inputs)
            multiplied[name] = _Factor(graph, name, codes, minima=minima)
        multiplied[name].multiply(node)
    if multiplied:
        graph.opset_imports[_DOMAIN] = 1
    RemoveUnusedNodesPass()(model)
    unread = {part(name) for name in multiplied for part in (codes_of, scale_of, minimum_of)}
    for value in [value for value in graph.inputs if value.name in unread and not value.uses()]:
        graph.inputs.remove(value)
    return [*multiplied]


def _codes_that_are_multiplied(product: ir.Node) -> ir.Value | None:
    """The input of a graph whose floats, transposed, are a product's second factor."""
    turned = _maker(product, 1)
    if turned is None or turned.op_type != "Transpose":
        return None
    if tuple(turned.attributes.get_ints("perm")) != _SWAPPED:
        return None
    made = turned.inputs[0]
    while made is not None and (node := made.producer()) is not None:
        if node.op_type not in _MAKING:
            return None
        made = node.inputs[0]
    is_codes = made is not None and made.is_graph_input() and is_few_bits(str(made.name))
    return made if is_codes else None


def _maker(node: ir.Node, index: int) -> ir.Node | None:
    """What makes an input of a node."""
    value = node.inputs[index]
    return value.producer() if value is not None else None


class _Factor:
    """What products with a matrix take, as initializers without data."""

    def __init__(self, graph: ir.Graph, name: str, codes: ir.Value, *, minima: bool) -> None:
        assert codes.shape is not None
        self._graph = graph
        self._bits = BITS[_PRECISIONS[codes.dtype]]
        self._rows, codes_in_bytes = codes.shape.numpy()
        self._columns = codes_in_bytes * 8 // self._bits
        self._blocks = self._columns // BLOCK
        rows, blocks, size = self._rows, self._blocks, BLOCK * self._bits // 8
        self._factor = [
            self._without_data(factor_of(name), ir.DataType.UINT8, (rows, blocks, size)),
            self._without_data(factor_scale_of(name), ir.DataType.FLOAT, (rows, blocks)),
        ]
        self._minimum = None
        if minima:
            self._minimum = self._without_data(
                factor_minimum_of(name), ir.DataType.FLOAT, (blocks, rows)
            )

    def multiply(self, product: ir.Node) -> None:
        """Compute a product in another way."""
        left, found = product.inputs[0], product.outputs[0]
        assert left is not None
        name = str(found.name)
        found.name = f"{name}.in_floats"
        output = ir.Value(name=name, type=found.type, shape=found.shape)
        by_codes = output if self._minimum is None else self._like(found, f"{name}.by_codes")
        _insert(
            self._graph,
            product,
            "MatMulNBits",
            [left, *self._factor],
            by_codes,
            domain=_DOMAIN,
            K=self._columns,
            N=self._rows,
            bits=self._bits,
            block_size=BLOCK,
            accuracy_level=_IN_8_BITS,
        )
        if self._minimum is not None:
            added = self._of_minima(left, self._minimum, product, name)
            _insert(self._graph, product, "Add", [by_codes, added], output)
        found.replace_all_uses_with(output, replace_graph_outputs=True)
        self._graph.remove(product, safe=True)

    def _of_minima(
        self, left: ir.Value, minimum: ir.Value, product: ir.Node, name: str
    ) -> ir.Value:
        """What the minima of blocks add to a product."""
        sums = ir.Value(name=f"{name}.sums", type=left.type)
        added = self._like(product.outputs[0], f"{name}.of_minima")
        _insert(self._graph, product, "MatMul", [left, self._summing()], sums)
        _insert(self._graph, product, "MatMul", [sums, minimum], added)
        return added

    def _summing(self) -> ir.Value:
        """A matrix, (columns, blocks), that adds up each block of what it is multiplied with."""
        name = f"summing.{self._columns}"
        known = self._graph.initializers.get(name)
        if known is not None:
            return known
        summing = np.kron(np.eye(self._blocks, dtype=np.float32), np.ones((BLOCK, 1), np.float32))
        value = ir.Value(name=name, const_value=ir.tensor(summing, name=name))
        self._graph.register_initializer(value)
        return value

    def _without_data(self, name: str, kind: ir.DataType, sizes: tuple[int, ...]) -> ir.Value:
        shape, size = ir.Shape(sizes), math.prod(sizes) * int(kind.itemsize)
        tensor = ir.ExternalTensor(_ELSEWHERE, 0, size, kind, shape=shape, name=name)
        value = ir.Value(name=name, type=ir.TensorType(kind), shape=shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    @staticmethod
    def _like(value: ir.Value, name: str) -> ir.Value:
        return ir.Value(name=name, type=value.type, shape=value.shape)


def _insert(
    graph: ir.Graph,
    place: ir.Node,
    operator: str,
    inputs: Sequence[ir.Value],
    output: ir.Value,
    *,
    domain: str = "",
    **attributes: int,
) -> None:
    """Insert a node that makes a value, before another node."""
    node = ir.node(operator, inputs, attributes=attributes, domain=domain, outputs=[output])
    graph.insert_before(place, node)
