"""Cross-entropy of each token, with a gradient that makes no further tensor of the logits' size.

    loss = −ℓ[target],  ℓ = log softmax(logits)
    ∂logits = g · (exp(ℓ) − 1 at the target)

ONNX Runtime writes the exponential, its product and the ones over ℓ, so that logits and ℓ are all
there ever is of their size: with a vocabulary of 49,152 that is most of what a step holds.
"""

from typing import Any

import torch
from onnxscript import opset21 as op
from torch import Tensor


@torch.library.custom_op("edgefuse::cross_entropy", mutates_args=())
def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each token.

    Args:
        logits: Logits, (…, vocabulary).
        targets: The right token ids, (…).

    Returns:
        Losses, in the shape of `targets`, and the logarithms of all probabilities.
    """
    logarithms = torch.log_softmax(logits, dim=-1)
    return -logarithms.gather(-1, targets.unsqueeze(-1)).squeeze(-1), logarithms


@cross_entropy.register_fake
def _(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return logits.new_empty(targets.shape), torch.empty_like(logits)


@torch.library.custom_op("edgefuse::cross_entropy_backward", mutates_args=())
def cross_entropy_backward(gradient: Tensor, logarithms: Tensor, targets: Tensor) -> Tensor:
    """The gradient by the logits, of that by the losses."""
    weights = gradient.unsqueeze(-1)
    softmax = logarithms.exp() * weights
    return softmax.scatter_add(-1, targets.unsqueeze(-1), -weights)


@cross_entropy_backward.register_fake
def _(gradient: Tensor, logarithms: Tensor, targets: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(logarithms)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], inputs[1])


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return cross_entropy_backward(gradient, *ctx.saved_tensors), None


cross_entropy.register_autograd(_differentiate, setup_context=_keep)


def cross_entropy_in_onnx(logits: Any, targets: Any) -> tuple[Any, Any]:
    """The same in ONNX."""
    last = op.Constant(value_ints=[-1])
    logarithms = op.LogSoftmax(logits, axis=-1)
    found = op.GatherElements(logarithms, op.Unsqueeze(targets, last), axis=-1)
    return op.Neg(op.Squeeze(found, last)), logarithms


def cross_entropy_backward_in_onnx(gradient: Any, logarithms: Any, targets: Any) -> Any:
    """The gradient in ONNX."""
    last = op.Constant(value_ints=[-1])
    weights, places = op.Unsqueeze(gradient, last), op.Unsqueeze(targets, last)
    softmax = op.Mul(op.Exp(logarithms), weights)
    right = op.Sub(op.GatherElements(softmax, places, axis=-1), weights)
    return op.ScatterElements(softmax, places, right, axis=-1)
