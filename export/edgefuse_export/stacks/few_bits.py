"""The graphs of a model in parts, of which matrices are kept in few bits."""

from collections.abc import Mapping

import onnx_ir as ir

from edgefuse_export.passes.quantized_base import read_quantized
from edgefuse_export.passes.row_shards import split_rows
from edgefuse_export.stacks.graphs import StackGraphs
from edgefuse_runtime.graph.base import BLOCK, Blocks, whole_of

LARGEST = 2**22
"""Floats that are made of a matrix at a time, where that can be chosen: 16 MiB."""


def read_blocks(parts: StackGraphs, base: Mapping[str, Blocks]) -> None:
    """Let every part take codes and scales in the place of matrices, in place.

    Args:
        parts: The graphs.
        base: Matrices in few bits, by their names in the model; all layers of a kind have the same.
    """
    _split(parts.exit, base)
    around = [parts.entrance, parts.entrance_backward, parts.exit, parts.exit_forward]
    for graph in filter(None, around):
        read_part(graph, base)
    for number, kind in enumerate(parts.kinds):
        prefix = parts.stack.prefix(parts.of_kind.index(number))
        for graph in filter(None, (kind.forward, kind.backward, *(kind.keeping or ()))):
            read_part(graph, base, prefix)


def _split(graph: ir.Model, base: Mapping[str, Blocks]) -> None:
    """Read large matrices in parts."""
    for name in [str(value.name) for value in graph.graph.inputs if value.name in base]:
        columns = base[name].scale.shape[-1] * BLOCK
        split_rows(graph.graph, name, most=LARGEST // columns)


def read_part(graph: ir.Model, base: Mapping[str, Blocks], prefix: str = "") -> None:
    """Let a part take codes and scales in the place of matrices, in place.

    Args:
        graph: The part.
        base: Matrices in few bits, by their names in the model.
        prefix: What these names begin with, before those in the part.
    """
    names = [str(value.name) for value in graph.graph.inputs]
    found = {name: base.get(whole_of(prefix + name)) for name in names}
    kept = {name: blocks for name, blocks in found.items() if blocks is not None}
    read_quantized(
        graph,
        {name: blocks.precision for name, blocks in kept.items()},
        with_minima=[name for name, blocks in kept.items() if blocks.minimum is not None],
    )
