"""The matrix that scores a vocabulary, a part of its rows at a time.

What is dequantised of it would be the largest tensor of all. Before → after, W being of n rows:

    MatMul(x, Transpose(W))  →  Concat(MatMul(x, Transpose(W[0:r])), MatMul(x, …), …)
    MatMul(g, W)             →  MatMul(g[:, 0:s], W[0:s]) + MatMul(g[:, s:…], W[s:…]) + …

The second product's parts begin at other rows than the first's: otherwise the same floats would be
kept from one to the other, which is what the parts are there to avoid.
"""

from collections.abc import Sequence
from itertools import pairwise

import onnx_ir as ir

from edgefuse_export.passes.quantized_base import readers, remove_unread_transposes
from edgefuse_runtime.graph.base import rows_of

_SWAPPED = (1, 0)


def split_rows(graph: ir.Graph, name: str, *, most: int) -> list[str]:
    """Read a matrix in parts, in place, if nothing but products reads it.

    Args:
        graph: A graph that has the matrix as an input.
        name: Name of the input.
        most: Count of rows that a part may have.

    Returns:
        Names of the inputs that stand in its place, as `rows_of` gives them; the name itself where
        it has no more rows, or something else reads it.
    """
    matrix = next(value for value in graph.inputs if value.name == name)
    assert matrix.shape is not None
    rows = matrix.shape.numpy()[0]
    found = readers(matrix)
    if rows <= most or any(node.op_type != "MatMul" or place != 1 for node, place, _ in found):
        return [name]
    shards = _Shards(graph, matrix)
    for product, _, transposed in found:
        if transposed:
            shards.score(product, [*range(0, rows, most), rows])
        else:
            shards.add_up(product, [0, *range(most // 2, rows, most), rows])
    remove_unread_transposes(graph)
    graph.inputs.remove(matrix)
    graph.inputs.extend(shards.inputs.values())
    return [*shards.inputs]


class _Shards:
    """Parts of a matrix's rows as inputs of a graph."""

    def __init__(self, graph: ir.Graph, matrix: ir.Value) -> None:
        assert matrix.shape is not None
        self._graph, self._matrix = graph, matrix
        self._columns = matrix.shape.numpy()[1]
        self.inputs: dict[str, ir.Value] = {}

    def score(self, product: ir.Node, bounds: Sequence[int]) -> None:
        """Compute every part's columns of a product with the transposed matrix."""
        left, scores = product.inputs[0], product.outputs[0]
        assert left is not None
        assert scores.shape is not None
        parts = []
        for begin, end in pairwise(bounds):
            shard = self._rows(begin, end)
            turned = self._value(f"{shard.name}.transposed", [self._columns, end - begin])
            self._insert("Transpose", [shard], [turned], product, perm=_SWAPPED)
            part = self._value(f"{scores.name}[{begin}:{end}]", [*scores.shape[:-1], end - begin])
            self._insert("MatMul", [left, turned], [part], product)
            parts.append(part)
        self._replace(product, "Concat", parts, axis=-1)

    def add_up(self, product: ir.Node, bounds: Sequence[int]) -> None:
        """Compute a product with the matrix as a sum of the parts' products."""
        left, result = product.inputs[0], product.outputs[0]
        assert left is not None
        assert left.shape is not None
        sizes = [end - begin for begin, end in pairwise(bounds)]
        lengths = ir.Value(name=f"{result.name}.lengths", const_value=ir.tensor(sizes))
        self._graph.register_initializer(lengths)
        pieces = [
            self._value(f"{left.name}[{begin}:{end}]", [*left.shape[:-1], end - begin])
            for begin, end in pairwise(bounds)
        ]
        self._insert("Split", [left, lengths], pieces, product, axis=-1)
        parts: list[ir.Value] = []
        for piece, (begin, end) in zip(pieces, pairwise(bounds), strict=True):
            part = self._value(f"{result.name}[{begin}:{end}]", result.shape)
            self._insert("MatMul", [piece, self._rows(begin, end)], [part], product)
            if parts:
                total = self._value(f"{result.name}[0:{end}].sum", result.shape)
                self._insert("Add", [parts.pop(), part], [total], product)
                part = total
            parts.append(part)
        self._replace(product, "Identity", parts)

    def _rows(self, begin: int, end: int) -> ir.Value:
        name = rows_of(str(self._matrix.name), begin, end)
        return self.inputs.setdefault(name, self._value(name, [end - begin, self._columns]))

    def _value(
        self, name: str, shape: ir.Shape | Sequence[int | ir.SymbolicDim] | None
    ) -> ir.Value:
        own = shape if isinstance(shape, ir.Shape | None) else ir.Shape(shape)
        return ir.Value(name=name, type=self._matrix.type, shape=own)

    def _insert(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        place: ir.Node,
        **attributes: int | Sequence[int],
    ) -> None:
        node = ir.node(operator, inputs, attributes=attributes, outputs=outputs)
        self._graph.insert_before(place, node)

    def _replace(
        self, product: ir.Node, operator: str, parts: Sequence[ir.Value], **attributes: int
    ) -> None:
        """Give a product's output to what is made of its parts."""
        made = product.outputs[0]
        name = str(made.name)
        made.name = f"{name}.whole"
        whole = self._value(name, made.shape)
        self._insert(operator, parts, [whole], product, **attributes)
        made.replace_all_uses_with(whole, replace_graph_outputs=True)
        self._graph.remove(product, safe=True)
