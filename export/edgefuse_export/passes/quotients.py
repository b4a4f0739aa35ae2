"""Division in the place of products with reciprocals, as ONNX Runtime knows normalizations.

Before → after:

    Mul(x, Reciprocal(Sqrt(y)))  →  Div(x, Sqrt(y))

With the division, what torch takes a root-mean-square norm apart to becomes one operator when a
session is opened (ONNX Runtime's SimplifiedLayerNormFusion).
"""

from typing import Any

import onnx_ir as ir
from onnxscript import rewriter


def _product(op: Any, x: Any, y: Any) -> Any:
    return op.Mul(x, op.Reciprocal(op.Sqrt(y)))


def _quotient(op: Any, x: Any, y: Any) -> Any:
    return op.Div(x, op.Sqrt(y))


_RULES = rewriter.pattern.RewriteRuleSet(
    [rewriter.pattern.RewriteRule(_product, _quotient)], commute=True
)


def divide_by_roots(model: ir.Model) -> None:
    """Divide by square roots, in place."""
    rewriter.rewrite(model, _RULES)
