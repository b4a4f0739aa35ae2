"""The sigmoid linear unit, with a gradient in the fewest operators.

    y = x s,   s = 1 / (1 + exp(−x))
    ∂x = g · s (1 + x − y)

torch differentiates it operator by operator, since its own gradient cannot be differentiated again.
"""

from typing import Any

import torch
from onnxscript import opset21 as op
from torch import Tensor, fx


@torch.library.custom_op("edgefuse::silu", mutates_args=())
def silu(x: Tensor) -> Tensor:
    """The unit, element by element."""
    return torch.nn.functional.silu(x)


@silu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("edgefuse::silu_backward", mutates_args=())
def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient by x, of that by y."""
    s = torch.sigmoid(x)
    slope: Tensor = s * (1 + x - x * s)
    return gradient * slope


@silu_backward.register_fake
def _(gradient: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, gradient: Tensor) -> Tensor:
    found: Tensor = silu_backward(gradient, *ctx.saved_tensors)
    return found


silu.register_autograd(_differentiate, setup_context=_keep)


def keep_silu(graph_module: fx.GraphModule) -> int:
    """Let sigmoid linear units be one operator each, in place.

    Args:
        graph_module: A forward pass in ATen operators.

    Returns:
        How many there are.
    """
    nodes = graph_module.graph.find_nodes(
        op="call_function", target=torch.ops.aten.silu.default, sort=False
    )
    for node in nodes:
        node.target = torch.ops.edgefuse.silu.default
    graph_module.recompile()
    return len(nodes)


def silu_in_onnx(x: Any) -> Any:
    """The same in ONNX."""
    return op.Mul(x, op.Sigmoid(x))


def silu_backward_in_onnx(gradient: Any, x: Any) -> Any:
    """The gradient in ONNX; s and y are the forward pass's own."""
    s = op.Sigmoid(x)
    slope = op.Add(op.Sub(x, op.Mul(x, s)), op.Constant(value_float=1.0))
    return op.Mul(gradient, op.Mul(s, slope))
