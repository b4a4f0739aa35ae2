"""Matrices in few bits: codes and scales are inputs, and floats are made where they are read.

Before → after, for a matrix W of blocks of 32 along its last axis:

    MatMul(x, W)    →  MatMul(x, DequantizeLinear(W.quantized, Cast(W.scale)))
    Gather(W, ids)  →  DequantizeLinear(Gather(W.quantized, ids), Cast(Gather(W.scale, ids)))

What is dequantised of inputs is neither folded nor kept between runs, and its memory is used anew
after the last product that reads it. Of an embedding only the rows of a batch are. ONNX Runtime's
Gather takes no int4: its own GatherBlockQuantized, which does both, is in its place.
"""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgefuse_runtime.graph.base import BLOCK, Precision, codes_of, scale_of

_TYPES: Mapping[Precision, ir.DataType] = {"int8": ir.DataType.INT8, "int4": ir.DataType.INT4}
_CONTRIBUTED = "com.microsoft"
_FLOAT = ir.DataType.FLOAT


def read_quantized(model: ir.Model, matrices: Mapping[str, Precision]) -> None:
    """Take codes and scales in the place of matrices, in place.

    Args:
        model: A graph whose tensors are inputs.
        matrices: What the codes of some of its inputs are, by their names.
    """
    model.graph.opset_imports[_CONTRIBUTED] = 1
    for value in [value for value in model.graph.inputs if value.name in matrices]:
        _Matrix(model.graph, value, matrices[str(value.name)]).read()


class _Matrix:
    """An input of a graph that becomes two."""

    def __init__(self, graph: ir.Graph, floats: ir.Value, precision: Precision) -> None:
        assert floats.shape is not None
        self._graph, self._floats, self._precision = graph, floats, precision
        *rows, columns = floats.shape.numpy()
        name = str(floats.name)
        self._codes = _value(codes_of(name), _TYPES[precision], [*rows, columns])
        self._scale = _value(scale_of(name), ir.DataType.FLOAT16, [*rows, columns // BLOCK])

    def read(self) -> None:
        graph, floats = self._graph, self._floats
        rows = [node for node in floats.consumers() if self._is_gather(node)]
        first = next(node for node in graph if floats in node.inputs)
        by_rows = self._precision == "int8" and len(rows) == len(floats.consumers())
        scale = self._scale if by_rows else self._cast(self._scale, first)
        whole = _value(f"{floats.name}.floats", _FLOAT, floats.shape)
        if len(rows) < len(floats.consumers()):
            self._insert("DequantizeLinear", [self._codes, scale], whole, first, axis=-1)
        for node in rows:
            self._gather(node, scale)
        floats.replace_all_uses_with(whole)
        graph.inputs.remove(floats)
        graph.inputs.extend([self._codes, self._scale])

    def _is_gather(self, node: ir.Node) -> bool:
        return (
            node.op_type == "Gather"
            and node.inputs[0] is self._floats
            and node.attributes.get_int("axis", 0) == 0
        )

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
        else:
            *places, columns = found.shape
            assert isinstance(columns, int)
            codes = _value(codes_of(name), ir.DataType.INT8, found.shape)
            part = _value(scale_of(name), scale.dtype, [*places, columns // BLOCK])
            for whole, own in ((self._codes, codes), (scale, part)):
                gather = ir.node("Gather", [whole, ids], attributes={"axis": 0}, outputs=[own])
                self._graph.insert_before(node, gather)
            if part.dtype != _FLOAT:
                part = self._cast(part, node)
            self._insert("DequantizeLinear", [codes, part], floats, node, axis=-1)
        found.replace_all_uses_with(floats, replace_graph_outputs=True)
        self._graph.remove(node, safe=True)

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
        node = ir.node(
            operator,
            inputs,
            attributes={**attributes, "block_size": BLOCK},
            domain=domain,
            outputs=[output],
        )
        self._graph.insert_before(place, node)


def _value(
    name: str, kind: ir.DataType | None, shape: ir.Shape | Sequence[int | ir.SymbolicDim] | None
) -> ir.Value:
    assert kind is not None
    own = shape if isinstance(shape, ir.Shape | None) else ir.Shape(shape)
    return ir.Value(name=name, type=ir.TensorType(kind), shape=own)
