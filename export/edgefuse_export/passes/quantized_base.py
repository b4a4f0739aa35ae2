"""Matrices in few bits: codes and scales are inputs, and floats are made where they are read.

Before → after, for a matrix W of blocks of 32 along its last axis:

    MatMul(x, W)    →  MatMul(x, floats(W.quantized, W.scale))
    Gather(W, ids)  →  floats(Gather(W.quantized, ids), Gather(W.scale, ids))

where floats(codes, scale) makes every block a row with one scale, which ONNX Runtime does seven
times as fast as rows with a scale for each 32 numbers:

    Reshape(DequantizeLinear(Reshape(codes, [-1, 32]), Reshape(Cast(scale), [-1]), axis=0), shape)

Of int4 codes the graph takes bytes, and halves them by operators that do many at a time; where a
matrix has minima, W.minimum is added to each of a block's floats, whose codes count from zero then.

What is dequantised of inputs is neither folded nor kept between runs. Every product has floats of
its own, whose memory is free after it: were they shared, all of a layer's would be there from the
forward to the backward product. Of an embedding only the rows of a batch are made.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from edgefuse_runtime.graph.base import (
    BITS,
    BLOCK,
    LOWEST,
    Precision,
    codes_of,
    is_few_bits,
    minimum_of,
    scale_of,
)

_BYTE, _FLOAT, _INT = ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.INT64
_CODES: Mapping[Precision, ir.DataType] = {"int8": ir.DataType.INT8, "int4": _BYTE}
_SIGNS, _LOWER, _HALF_BYTE = 0x88, 0x0F, 4
_SWAPPED = (1, 0)
_MAKING = {
    "Add",
    "BitShift",
    "BitwiseAnd",
    "BitwiseXor",
    "Cast",
    "Concat",
    "DequantizeLinear",
    "Expand",
    "Reshape",
    "Shape",
    "Unsqueeze",
}
"""What floats are made by."""


def read_quantized(
    model: ir.Model, matrices: Mapping[str, Precision], *, with_minima: Collection[str] = ()
) -> None:
    """Take codes and scales in the place of matrices, in place.

    Args:
        model: A graph whose tensors are inputs.
        matrices: What the codes of some of its inputs are, by their names.
        with_minima: Names of those whose blocks have a minimum.
    """
    for value in [value for value in model.graph.inputs if value.name in matrices]:
        name = str(value.name)
        _Matrix(model.graph, value, matrices[name], minima=name in with_minima).read()


def dequantize_first(graph: ir.Graph) -> None:
    """Move what makes floats of whole matrices to a graph's beginning, in place.

    Of the inputs of an operator ONNX Runtime computes that first which is latest in the file. So
    floats are made when nothing else is left to do for the product that reads them; made beside
    it in the file, those of all layers would be made before the first product.
    """
    kept = {value for value in graph.inputs if is_few_bits(str(value.name))}
    made = []
    for node in graph:
        read = [value for value in node.inputs if value is not None and value.const_value is None]
        if node.op_type in _MAKING and read and kept.issuperset(read):
            made.append(node)
            kept.update(node.outputs)
    if made:
        graph.remove(made)
        graph.insert_before(graph[0], made)


def readers(matrix: ir.Value, *, transposed: bool = False) -> list[tuple[ir.Node, int, bool]]:
    """Where a matrix is read beyond what only transposes it.

    Args:
        matrix: A value with two axes, or a stack of such.
        transposed: Whether it stands for its transpose.

    Returns:
        Nodes, the places among their inputs, and whether they read it transposed.
    """
    found = []
    for node, place in matrix.uses():
        if node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm")) == _SWAPPED:
            found += readers(node.outputs[0], transposed=not transposed)
        else:
            found.append((node, place, transposed))
    return found


def remove_unread_transposes(graph: ir.Graph) -> None:
    """Remove what transposes a matrix for nobody, in place."""
    for node in reversed(graph):
        value = node.outputs[0]
        if node.op_type == "Transpose" and not value.uses() and not value.is_graph_output():
            graph.remove(node, safe=True)


class _Parts(NamedTuple):
    """What floats are made of: of a whole matrix, or of some of its rows."""

    codes: ir.Value
    scale: ir.Value
    minimum: ir.Value | None


class _Matrix:
    """An input of a graph that becomes two or three."""

    def __init__(
        self, graph: ir.Graph, floats: ir.Value, precision: Precision, *, minima: bool
    ) -> None:
        assert floats.shape is not None
        self._graph, self._floats = graph, floats
        *rows, self._columns = floats.shape.numpy()
        name, parts = str(floats.name), [*rows, self._columns // BLOCK]
        kind, codes = _CODES[precision], self._columns * BITS[precision] // 8
        self._whole = _Parts(
            _value(codes_of(name), kind, [*rows, codes]),
            _value(scale_of(name), ir.DataType.FLOAT16, parts),
            _value(minimum_of(name), ir.DataType.FLOAT16, parts) if minima else None,
        )

    def read(self) -> None:
        graph, floats = self._graph, self._floats
        assert floats.shape is not None
        for number, (node, place, transposed) in enumerate(readers(floats)):
            if self._is_gather(node):
                self._gather(node)
                continue
            maker = _Maker(graph, node, f"{floats.name}.floats_{number}")
            # ONNX Runtime joins equal nodes: an axis counted from the other end tells two apart.
            sizes = ir.tensor(floats.shape.numpy())
            made = maker.make(self._whole, maker.constant("sizes", sizes), axis=-2 * (number % 2))
            made.shape = floats.shape
            if transposed:
                made = maker.add("Transpose", [made], "transposed", perm=_SWAPPED)
                made.shape = ir.Shape(floats.shape[::-1])
            node.replace_input_with(place, made)
        remove_unread_transposes(graph)
        graph.inputs.remove(floats)
        graph.inputs.extend(filter(None, self._whole))

    def _is_gather(self, node: ir.Node) -> bool:
        return (
            node.op_type == "Gather"
            and node.inputs[0] is self._floats
            and node.attributes.get_int("axis", 0) == 0
        )

    def _gather(self, node: ir.Node) -> None:
        """Make floats of the rows that are looked up, and of no others."""
        ids, found = node.inputs[1], node.outputs[0]
        assert ids is not None
        name = str(found.name)
        found.name = f"{name}.gathered"
        maker = _Maker(self._graph, node, name)

        def rows(part: ir.Value, end: str) -> ir.Value:
            return maker.add("Gather", [part, ids], end, part.dtype, axis=0)

        codes, scale, minimum = self._whole
        looked_up = _Parts(
            rows(codes, "codes_of_rows"),
            rows(scale, "scales_of_rows"),
            rows(minimum, "minima_of_rows") if minimum is not None else None,
        )
        last = maker.constant("columns", ir.tensor([self._columns]))
        shape = maker.add(
            "Concat", [maker.add("Shape", [ids], "ids", _INT), last], "sizes", _INT, axis=0
        )
        floats = maker.make(looked_up, shape, axis=0)
        floats.name, floats.shape = name, found.shape
        found.replace_all_uses_with(floats, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)


class _Maker:
    """Adds nodes to a graph before one of its nodes."""

    def __init__(self, graph: ir.Graph, place: ir.Node, name: str) -> None:
        self._graph, self._place, self._name = graph, place, name

    def make(self, parts: _Parts, sizes: ir.Value, *, axis: int) -> ir.Value:
        """Make floats.

        Args:
            parts: Codes, and scales and minima of their blocks.
            sizes: Shape of the floats, a tensor.
            axis: Which of (blocks, 32) a scale is of: 0, or -2, which is the same.
        """
        all_of, block = self.constant("blocks", ir.tensor([-1])), ir.tensor([-1, BLOCK])
        in_blocks = self.constant("block", block)
        scale = self.add("Cast", [parts.scale], "scale", to=int(_FLOAT))
        scale = self.add("Reshape", [scale, all_of], "scales")
        codes, zero = parts.codes, []
        if codes.dtype == _BYTE:
            if parts.minimum is None:
                eight = self.constant("eight", ir.tensor(np.uint8(LOWEST)))
                size = self.add("Shape", [scale], "count", _INT)
                zero = [self.add("Expand", [eight, size], "zero", _BYTE)]
            codes = self._halves(codes)
        codes = self.add("Reshape", [codes, in_blocks], "codes", codes.dtype)
        floats = self.add("DequantizeLinear", [codes, scale, *zero], "dequantized", axis=axis)
        if parts.minimum is not None:
            low = self.add("Cast", [parts.minimum], "minimum", to=int(_FLOAT))
            column = self.constant("column", ir.tensor([-1, 1]))
            low = self.add("Reshape", [low, column], "minima")
            floats = self.add("Add", [floats, low], "raised")
        return self.add("Reshape", [floats, sizes], "")

    def _halves(self, codes: ir.Value) -> ir.Value:
        """Two codes from 0 to 15 of each byte, of two int4: (…, bytes) → (…, bytes, 2)."""
        signs, lower, bits = (
            self.constant(end, ir.tensor(np.uint8(number)))
            for end, number in (("signs", _SIGNS), ("lower", _LOWER), ("bits", _HALF_BYTE))
        )
        last = self.constant("last", ir.tensor([-1]))
        counted = self.add("BitwiseXor", [codes, signs], "counted", _BYTE)
        first = self.add("BitwiseAnd", [counted, lower], "first", _BYTE)
        second = self.add("BitShift", [counted, bits], "second", _BYTE, direction="RIGHT")
        parts = [
            self.add("Unsqueeze", [half, last], f"half_{index}", _BYTE)
            for index, half in enumerate((first, second))
        ]
        return self.add("Concat", parts, "halves", _BYTE, axis=-1)

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        end: str,
        kind: ir.DataType | None = _FLOAT,
        **attributes: int | str | Sequence[int],
    ) -> ir.Value:
        """Add a node, and give what it makes."""
        assert kind is not None
        output = ir.Value(name=f"{self._name}.{end}".rstrip("."), type=ir.TensorType(kind))
        node = ir.node(operator, inputs, attributes=attributes, outputs=[output])
        self._graph.insert_before(self._place, node)
        return output

    def constant(self, end: str, content: Any) -> ir.Value:
        """Add an initializer."""
        value = ir.Value(name=f"{self._name}.{end}", const_value=content)
        self._graph.register_initializer(value)
        return value


def _value(
    name: str, kind: ir.DataType | None, shape: ir.Shape | Sequence[int | ir.SymbolicDim] | None
) -> ir.Value:
    assert kind is not None
    own = shape if isinstance(shape, ir.Shape | None) else ir.Shape(shape)
    return ir.Value(name=name, type=ir.TensorType(kind), shape=own)
