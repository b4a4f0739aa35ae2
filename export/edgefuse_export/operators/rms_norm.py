"""Division by the root of the mean square, with a gradient in the fewest operators.

    y = x · r,   r = 1 / √(mean(x²) + ε)      the mean over the last axis
    ∂x = r ⊙ (g − y · mean(g ⊙ y))

It is what models take root-mean-square norms apart to (Zhang and Sennrich, "Root Mean Square Layer
Normalization", NeurIPS 2019, equation 4). Differentiated operator by operator, the gradient is
fifteen passes over the activations, two of them powers.
"""

from operator import getitem
from typing import Any

import torch
from onnxscript import opset21 as op
from torch import Tensor, fx

aten = torch.ops.aten


@torch.library.custom_op("edgefuse::rms_norm", mutates_args=())
def rms_norm(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Divide by the root of the mean square.

    Args:
        x: Numbers, (…, size).
        epsilon: What is added to the mean square.

    Returns:
        The quotients, in the shape of `x`, and the reciprocals of the roots, (…, 1).
    """
    root = torch.sqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
    return x / root, root.reciprocal()


@rms_norm.register_fake
def _(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    return torch.empty_like(x), x.new_empty((*x.shape[:-1], 1))


@torch.library.custom_op("edgefuse::rms_norm_backward", mutates_args=())
def rms_norm_backward(gradient: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """The gradient by x, of that by y."""
    return (gradient - y * (gradient * y).mean(-1, keepdim=True)) * r


@rms_norm_backward.register_fake
def _(gradient: Tensor, y: Tensor, r: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(gradient)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ARG001
    ctx.save_for_backward(*output)


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return rms_norm_backward(gradient, *ctx.saved_tensors), None


rms_norm.register_autograd(_differentiate, setup_context=_keep)


def rms_norm_in_onnx(x: Any, epsilon: float) -> tuple[Any, Any]:
    """The same in ONNX, as ONNX Runtime knows it, and makes one operator of it with the weight."""
    last = op.Constant(value_ints=[-1])
    square = op.ReduceMean(op.Pow(x, op.Constant(value_float=2.0)), last, keepdims=1)
    root = op.Sqrt(op.Add(square, op.Constant(value_float=epsilon)))
    return op.Div(x, root), op.Reciprocal(root)


def rms_norm_backward_in_onnx(gradient: Any, y: Any, r: Any) -> Any:
    """The gradient in ONNX."""
    along = op.ReduceMean(op.Mul(gradient, y), op.Constant(value_ints=[-1]), keepdims=1)
    return op.Mul(op.Sub(gradient, op.Mul(y, along)), r)


def join_norms(graph_module: fx.GraphModule) -> int:
    """Let root-mean-square norms be one operator each, in place.

    Args:
        graph_module: A forward pass in ATen operators.

    Returns:
        How many there are.
    """
    graph, count = graph_module.graph, 0
    for node in list(graph.nodes):
        found = _parts(node)
        if found is None:
            continue
        x, epsilon = found
        with graph.inserting_before(node):
            both = graph.call_function(torch.ops.edgefuse.rms_norm.default, (x, epsilon))
            quotients = graph.call_function(getitem, (both, 0))
        quotients.meta = dict(node.meta)
        node.replace_all_uses_with(quotients)
        graph.erase_node(node)
        count += 1
    graph.eliminate_dead_code()
    graph_module.recompile()
    return count


def _parts(node: fx.Node) -> tuple[fx.Node, float] | None:
    """The x and ε of a product of x and r; None for another node."""
    if node.target is not aten.mul.Tensor:
        return None
    for x, r in (node.args, node.args[::-1]):
        match _arguments(r, aten.rsqrt.default):
            case (fx.Node() as shifted,):
                found = _shifted_mean_square(shifted)
                if found is not None and found[0] is x:
                    return found
    return None


def _shifted_mean_square(node: fx.Node) -> tuple[fx.Node, float] | None:
    """The x and ε of mean(x²) + ε; None for another node."""
    match _arguments(node, aten.add.Tensor):
        case (fx.Node() as mean, float() as epsilon):
            match _arguments(mean, aten.mean.dim):
                case (fx.Node() as square, [-1], True):
                    match _arguments(square, aten.pow.Tensor_Scalar):
                        case (fx.Node() as x, 2):
                            return x, epsilon
    return None


def _arguments(node: object, target: object) -> tuple[Any, ...]:
    """Arguments of a node of a target; none for anything else."""
    return node.args if isinstance(node, fx.Node) and node.target is target else ()
