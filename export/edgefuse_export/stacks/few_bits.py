"""The graphs of a model in parts, of which matrices are kept in few bits."""

from collections.abc import Mapping

import onnx_ir as ir

from edgefuse_export.passes.quantized_base import read_quantized
from edgefuse_export.stacks.graphs import StackGraphs
from edgefuse_runtime.graph.base import Blocks


def read_blocks(parts: StackGraphs, base: Mapping[str, Blocks]) -> None:
    """Let every part take codes and scales in the place of matrices, in place.

    Args:
        parts: The graphs.
        base: Matrices in few bits, by their names in the model. Where one layer has one, so have
            all of its kind.
    """
    around = [parts.entrance, parts.entrance_backward, parts.exit, parts.exit_forward]
    for graph in filter(None, around):
        _read(graph, base, "")
    for number, kind in enumerate(parts.kinds):
        prefix = parts.stack.prefix(parts.of_kind.index(number))
        _read(kind.forward, base, prefix)
        if kind.backward is not None:
            _read(kind.backward, base, prefix)


def _read(graph: ir.Model, base: Mapping[str, Blocks], prefix: str) -> None:
    names = [str(value.name) for value in graph.graph.inputs]
    kept = {name: base[prefix + name].precision for name in names if prefix + name in base}
    read_quantized(graph, kept)
