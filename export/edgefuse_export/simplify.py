"""Fold what is constant, join what follows itself, drop what nobody reads."""

import onnx_ir as ir
from onnxscript import optimizer

from edgefuse_export.quiet import quiet


def simplify(model: ir.Model) -> None:
    """Simplify a graph by onnxscript's optimizer, in place."""
    with quiet("onnxscript"):  # it says which constants it cannot compute; none of them matter
        optimizer.optimize(model)
