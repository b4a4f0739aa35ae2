"""Matrices in few bits: codes and scales are inputs, and floats are made where they are read.

Before → after, for a matrix W of blocks of 32 along its last axis:

    MatMul(x, W)    →  MatMul(x, DequantizeLinear(W.quantized, Cast(W.scale)))
    Gather(W, ids)  →  DequantizeLinear(Gather(W.quantized, ids), Cast(Gather(W.scale, ids)))

Where a matrix has minima, W.minimum + 8 · W.scale is added to each of a block's floats.

What is dequantised of inputs is neither folded nor kept between runs. Every product has floats of
its own, whose memory is free after it: were they shared, all of a layer's would be there from the
forward to the backward product. Of an embedding only the rows of a batch are made. ONNX Runtime's
Gather takes no int4: its own GatherBlockQuantized, which does both, is in its place.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgefuse_runtime.graph.base import (
    BLOCK,
    LOWEST,
    Precision,
    codes_of,
    is_few_bits,
    minimum_of,
    scale_of,
)

_TYPES: Mapping[Precision, ir.DataType] = {"int8": ir.DataType.INT8, "int4": ir.DataType.INT4}
_CONTRIBUTED = "com.microsoft"
_FLOAT = ir.DataType.FLOAT
_SWAPPED = (1, 0)
_MAKING = {"Cast", "DequantizeLinear", "Mul", "Add", "Unsqueeze", "Reshape"}
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
    model.graph.opset_imports[_CONTRIBUTED] = 1
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


def insert(
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


class _Matrix:
    """An input of a graph that becomes two."""

    def __init__(
        self, graph: ir.Graph, floats: ir.Value, precision: Precision, *, minima: bool
    ) -> None:
        assert floats.shape is not None
        self._graph, self._floats, self._precision = graph, floats, precision
        *rows, columns = floats.shape.numpy()
        name = str(floats.name)
        self._codes = _value(codes_of(name), _TYPES[precision], [*rows, columns])
        parts = [*rows, columns // BLOCK]
        self._scale = _value(scale_of(name), ir.DataType.FLOAT16, parts)
        self._minimum = _value(minimum_of(name), ir.DataType.FLOAT16, parts) if minima else None

    def read(self) -> None:
        graph, floats = self._graph, self._floats
        first = next(node for node in graph if floats in node.inputs)
        found = readers(floats)
        by_rows = self._precision == "int8" and all(self._is_gather(one) for one, *_ in found)
        scale = self._scale if by_rows else self._cast(self._scale, first)
        minimum = self._cast(self._minimum, first) if self._minimum is not None else None
        for number, (node, place, transposed) in enumerate(found):
            if self._is_gather(node):
                self._gather(node, scale)
            else:
                made = self._whole(node, scale, minimum, number, transposed=transposed)
                node.replace_input_with(place, made)
        remove_unread_transposes(graph)
        graph.inputs.remove(floats)
        graph.inputs.extend(filter(None, [self._codes, self._scale, self._minimum]))

    def _is_gather(self, node: ir.Node) -> bool:
        return (
            node.op_type == "Gather"
            and node.inputs[0] is self._floats
            and node.attributes.get_int("axis", 0) == 0
        )

    def _whole(
        self,
        node: ir.Node,
        scale: ir.Value,
        minimum: ir.Value | None,
        number: int,
        *,
        transposed: bool,
    ) -> ir.Value:
        """Make floats of the whole matrix for one reader.

        ONNX Runtime joins nodes that are equal: an axis counted from the other end tells two apart.
        """
        rank = len(self._codes.shape or ())
        floats = _value(f"{self._floats.name}.floats_{number}", _FLOAT, self._codes.shape)
        axis = rank - 1 if number % 2 else -1
        self._insert("DequantizeLinear", [self._codes, scale], floats, node, axis=axis)
        if minimum is not None:
            floats = self._raised(floats, scale, minimum, node, name=f"{floats.name}.raised")
        if not transposed:
            return floats
        assert floats.shape is not None
        turned = _value(f"{floats.name}.transposed", _FLOAT, floats.shape[::-1])
        transpose = ir.node("Transpose", [floats], {"perm": _SWAPPED}, outputs=[turned])
        self._graph.insert_before(node, transpose)
        return turned

    def _gather(self, node: ir.Node, scale: ir.Value) -> None:
        """Make floats of the rows that are looked up, and of no others."""
        ids, found = node.inputs[1], node.outputs[0]
        assert ids is not None
        assert found.shape is not None
        name = str(found.name)
        found.name = f"{name}.gathered"
        floats = _value(name, _FLOAT, found.shape)
        if self._precision == "int4":
            axes = {"gather_axis": 0, "quantize_axis": len(self._codes.shape or ()) - 1}
            inputs = [self._codes, ids, scale]
            self._insert("GatherBlockQuantized", inputs, floats, node, domain=_CONTRIBUTED, **axes)
            if self._minimum is not None:
                scale, low = (
                    self._cast(self._rows(part, ids, node), node)
                    for part in (self._scale, self._minimum)
                )
                floats.name = f"{name}.from_lowest"
                floats = self._raised(floats, scale, low, node, name=name)
        else:
            codes, part = (self._rows(whole, ids, node) for whole in (self._codes, scale))
            if part.dtype != _FLOAT:
                part = self._cast(part, node)
            self._insert("DequantizeLinear", [codes, part], floats, node, axis=-1)
        found.replace_all_uses_with(floats, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

    def _rows(self, whole: ir.Value, ids: ir.Value, place: ir.Node) -> ir.Value:
        """The rows of codes, scales or minima that are looked up."""
        found = place.outputs[0]
        assert found.shape is not None
        assert whole.shape is not None
        shape = [*found.shape[:-1], whole.shape[-1]]
        rows = _value(f"{whole.name}.of.{found.name}", whole.dtype, shape)
        gather = ir.node("Gather", [whole, ids], attributes={"axis": 0}, outputs=[rows])
        self._graph.insert_before(place, gather)
        return rows

    def _raised(
        self, floats: ir.Value, scale: ir.Value, minimum: ir.Value, place: ir.Node, *, name: str
    ) -> ir.Value:
        """Add to each block's floats what they lack: codes count from -8, and not from zero."""
        assert floats.shape is not None
        assert scale.shape is not None
        shape, parts = [*floats.shape], [*scale.shape]
        rows, blocks = [0] * (len(parts) - 1), parts[-1]
        assert isinstance(blocks, int)

        def add(operator: str, inputs: list[ir.Value], end: str, shape: Sequence[Any]) -> ir.Value:
            made = _value(f"{name}{end}", _FLOAT, shape)
            self._graph.insert_before(place, ir.node(operator, inputs, outputs=[made]))
            return made

        def constant(end: str, content: Any) -> ir.Value:
            value = ir.Value(name=f"{name}.{end}", const_value=ir.tensor(content))
            self._graph.register_initializer(value)
            return value

        lowest = constant("lowest", np.float32(LOWEST))
        raise_by = add("Mul", [scale, lowest], ".zero", parts)
        raise_by = add("Add", [raise_by, minimum], ".raise", parts)
        raise_by = add("Unsqueeze", [raise_by, constant("last", [-1])], ".raises", [*parts, 1])
        cut = [*parts, BLOCK]
        sizes = constant("blocks", [*rows, blocks, BLOCK])
        in_blocks = add("Reshape", [floats, sizes], ".in_blocks", cut)
        raised = add("Add", [in_blocks, raise_by], ".raised", cut)
        sizes = constant("whole", [*rows, blocks * BLOCK])
        return add("Reshape", [raised, sizes], "", shape)

    def _cast(self, scale: ir.Value, place: ir.Node) -> ir.Value:
        cast = _value(f"{scale.name}.float32", _FLOAT, scale.shape)
        node = ir.node("Cast", [scale], attributes={"to": int(_FLOAT)}, outputs=[cast])
        self._graph.insert_before(place, node)
        return cast

    def _insert(
        self,
        operator: str,
        inputs: list[ir.Value],
        output: ir.Value,
        place: ir.Node,
        *,
        domain: str = "",
        **attributes: int,
    ) -> None:
        insert(
            self._graph,
            place,
            operator,
            inputs,
            output,
            domain=domain,
            **attributes,
            block_size=BLOCK,
        )


def _value(
    name: str, kind: ir.DataType | None, shape: ir.Shape | Sequence[int | ir.SymbolicDim] | None
) -> ir.Value:
    assert kind is not None
    own = shape if isinstance(shape, ir.Shape | None) else ir.Shape(shape)
    return ir.Value(name=name, type=ir.TensorType(kind), shape=own)
