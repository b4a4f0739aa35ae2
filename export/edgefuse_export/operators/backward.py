"""Gradients of ATen operators in the cheapest ONNX operators there are for them.

Each function is given to `torch.onnx.export` as the translation of one ATen operator. What is not
here, torch decomposes by its own rules.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from onnxscript.function_libs.torch_lib.ops.core import aten_sum_dim_IntList

from edgefuse_export.losses.cross_entropy import (
    cross_entropy_backward_in_onnx,
    cross_entropy_in_onnx,
)
from edgefuse_export.operators.dropout import keep_in_onnx
from edgefuse_export.operators.rms_norm import rms_norm_backward_in_onnx, rms_norm_in_onnx
from edgefuse_export.operators.rowwise import Emit, rowwise
from edgefuse_export.operators.silu import silu_backward_in_onnx, silu_in_onnx

aten = torch.ops.aten

_SMALL_TABLE = 64
"""Rows up to which summing by a product with a one-hot matrix is faster than one by one."""


def gelu_backward(grad_output: Any, self: Any, approximate: str = "none") -> Any:
    """Give g · (Φ(x) + x φ(x)), with u = x/√2: g · ((1 + erf(u))/2 + u / exp(u²) / √π).

    Dividing by exp(u²) spares the negation, and where exp overflows the quotient is 0 as it should.
    HardSigmoid halves and adds in one pass; erf stays within what it clips.
    """
    if approximate == "tanh":
        return _gelu_tanh_backward(grad_output, self)

    def body(emit: Emit, gradient: ir.Value, x: ir.Value) -> ir.Value:
        u = emit("Mul", x, math.sqrt(0.5))
        density = emit("Div", u, emit("Exp", emit("Mul", u, u)))
        density = emit("Mul", density, 1 / math.sqrt(math.pi))
        distribution = emit("HardSigmoid", emit("Erf", u), alpha=0.5, beta=0.5)
        return emit("Mul", gradient, emit("Add", density, distribution))

    return rowwise("gelu_backward", body, grad_output, self)


def _gelu_tanh_backward(grad_output: Any, self: Any) -> Any:
    """g/2 · (1 + t + x (1 − t²) (a + 3abx²)), t = tanh(ax + abx³), a = √(2/π), b = 0.044715."""
    a = math.sqrt(2 / math.pi)
    square = op.Mul(self, self)
    inner = op.Add(
        op.Mul(square, op.Constant(value_float=a * 0.044715)), op.Constant(value_float=a)
    )
    t = op.Tanh(op.Mul(self, inner))
    slope = op.Add(
        op.Mul(square, op.Constant(value_float=3 * a * 0.044715)), op.Constant(value_float=a)
    )
    curve = op.Sub(op.Constant(value_float=1.0), op.Mul(t, t))
    derivative = op.Add(op.Add(t, op.Constant(value_float=1.0)), op.Mul(op.Mul(self, curve), slope))
    return op.Mul(op.Mul(grad_output, op.Constant(value_float=0.5)), derivative)


def softmax_backward(grad_output: Any, output: Any, dim: int, input_dtype: int) -> Any:  # noqa: ARG001
    """Give g ⊙ y − y · Σ(g ⊙ y) = y ⊙ (g − Σ(g ⊙ y))."""
    axis = dim % len(output.shape) - len(output.shape)

    def body(emit: Emit, gradient: ir.Value, y: ir.Value) -> ir.Value:
        weighted = emit("Mul", gradient, y)
        total = emit("ReduceSum", weighted, np.array([axis]), keepdims=1)
        return emit("Mul", y, emit("Sub", gradient, total))

    if axis == -len(output.shape):
        row = rowwise("softmax_backward", body, _as_one_row(grad_output), _as_one_row(output))
        return op.Squeeze(row, op.Constant(value_ints=[0]))
    return rowwise("softmax_backward", body, grad_output, output)


def _as_one_row(value: Any) -> Any:
    row = op.Unsqueeze(value, op.Constant(value_ints=[0]))
    row.shape = ir.Shape([1, *value.shape])
    return row


def embedding_backward(
    grad_output: Any,
    indices: Any,
    num_weights: Any,
    padding_idx: int,
    scale_grad_by_freq: bool,  # noqa: ARG001, FBT001 - ATen's signature; no model sets it
) -> Any:
    """Sum the rows of the gradient that are of one token, and lay the sums into a table of zeros.

    With rows in the order of their tokens, a token's sum is the difference of two running sums,
    which float64 takes without loss. ONNX Runtime's ScatterElements would add element by element,
    four times as slow, and its ScatterND adds from several threads at once and loses sums where a
    token occurs twice.

    Of a table of any number of rows, such as the embeddings of a batch's texts, that is few.
    """
    hidden = int(grad_output.shape[-1])
    rows = op.Reshape(grad_output, op.Constant(value_ints=[-1, hidden]))
    ids = op.Reshape(indices, op.Constant(value_ints=[-1]))
    if padding_idx >= 0:
        padding = op.Equal(ids, op.Constant(value_int=padding_idx))
        rows = op.Where(op.Unsqueeze(padding, [-1]), op.Constant(value_float=0.0), rows)
    if not isinstance(num_weights, int) or num_weights <= _SMALL_TABLE:
        one_hot = op.OneHot(
            ids,
            op.Constant(value_int=num_weights) if isinstance(num_weights, int) else num_weights,
            op.Constant(value_floats=[0.0, 1.0]),
            axis=0,
        )
        return op.MatMul(one_hot, rows)
    _, order = op.TopK(ids, op.Shape(ids), largest=0)
    rows = op.Cast(op.Gather(rows, order), to=ir.DataType.DOUBLE)
    tokens, _, _, counts = op.Unique(ids)
    zero = op.Constant(value_int=0)
    last = op.Sub(op.CumSum(counts, zero), op.Constant(value_int=1))
    running = op.Gather(op.CumSum(rows, zero), last)
    sums = op.Sub(running, op.Pad(running, op.Constant(value_ints=[1, 0, -1, 0])))
    table = op.ConstantOfShape(op.Constant(value_ints=[num_weights, hidden]))
    return op.ScatterND(
        table, op.Unsqueeze(tokens, [-1]), op.Cast(sums, to=ir.DataType.FLOAT), reduction="none"
    )


def layer_norm_backward(  # noqa: PLR0917 - ATen's signature
    grad_out: Any,
    input: Any,  # noqa: A002 - ATen's name
    normalized_shape: Sequence[int],
    mean: Any,
    rstd: Any,
    weight: Any,
    bias: Any,  # noqa: ARG001 - its gradient does not depend on it
    output_mask: Sequence[bool],  # noqa: ARG001 - what nobody reads is dropped later
) -> tuple[Any, Any, Any]:
    """Give the gradients of input, weight and bias.

    With c = x − mean, r = rstd and a = g ⊙ w, they are

        r (a − mean(a) − r² c mean(a ⊙ c)),   Σ r (g ⊙ c)   and   Σ g.

    Matrix products do all four sums, their factors with them.
    """
    (hidden,) = normalized_shape
    if weight is None:  # OLMo's
        weight = op.Constant(value_floats=[1.0] * hidden)
    centered = op.Sub(input, mean)
    product = op.Mul(grad_out, centered)
    flat = op.Constant(value_ints=[-1, hidden])
    scales = op.Reshape(rstd, op.Constant(value_ints=[-1]))
    grad_weight = op.MatMul(scales, op.Reshape(product, flat))
    grad_bias = _column_sums(op.Reshape(grad_out, flat))

    average = op.Reshape(
        op.Div(weight, op.Constant(value_float=float(hidden))),
        op.Constant(value_ints=[hidden, 1]),
    )
    along = op.Mul(op.MatMul(product, average), op.Mul(rstd, rstd))
    scaled = op.Mul(grad_out, weight)
    rest = op.Sub(op.Sub(scaled, op.MatMul(grad_out, average)), op.Mul(centered, along))
    return op.Mul(rest, rstd), grad_weight, grad_bias


def convolution_backward(  # noqa: PLR0917 - ATen's signature
    grad_output: Any,
    input: Any,  # noqa: A002 - ATen's name
    weight: Any,
    bias_sizes: Sequence[int] | None,  # noqa: ARG001
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,  # noqa: FBT001
    output_padding: Sequence[int],  # noqa: ARG001
    groups: int,
    output_mask: Sequence[bool],  # noqa: ARG001 - what nobody reads is dropped later
) -> tuple[Any, Any, Any]:
    """Give the gradients of input, weight and bias of a convolution over tokens.

    With g (B, O, T'), x (B, I, T) padded by p, and G groups, that of the weight (O, I/G, K) is

        dW[:, :, j] = Σ g[b, :, t] x[b, :, t + j]ᵀ,  group by group:

    a product for each of the K places of the kernel, which is short. Of the input it is the
    transposed convolution, and of the bias the sum of g.

    Raises:
        ValueError: The convolution has steps or gaps, or is not over one axis.
    """
    if [*stride] != [1] or [*dilation] != [1] or transposed:
        raise ValueError("its convolutions are not over single tokens, one after the other")
    (pad,) = padding
    kernel, out, inside = int(weight.shape[2]), int(weight.shape[0]), int(weight.shape[1])
    grad_input = op.ConvTranspose(grad_output, weight, group=groups, pads=[pad, pad])

    def by_group(value: Any, channels: int) -> Any:
        """(B, G·c, T) → (G, c, B·T)."""
        by_channel = op.Transpose(value, perm=[1, 0, 2])
        return op.Reshape(by_channel, op.Constant(value_ints=[groups, channels, -1]))

    padded = op.Pad(input, op.Constant(value_ints=[0, 0, pad, 0, 0, pad]))
    length = op.Shape(grad_output, start=2, end=3)
    gradients = by_group(grad_output, out // groups)
    places = []
    for place in range(kernel):
        begin = op.Constant(value_ints=[place])
        window = op.Slice(padded, begin, op.Add(length, begin), op.Constant(value_ints=[2]))
        product = op.MatMul(gradients, op.Transpose(by_group(window, inside), perm=[0, 2, 1]))
        places.append(op.Reshape(product, op.Constant(value_ints=[out, inside, 1])))
    grad_weight = op.Concat(*places, axis=2)
    grad_bias = op.ReduceSum(grad_output, op.Constant(value_ints=[0, 2]), keepdims=0)
    return grad_input, grad_weight, grad_bias


def slice_backward(  # noqa: PLR0917 - ATen's signature
    grad_output: Any,
    input_sizes: Sequence[Any],
    dim: int,
    start: int,
    end: int,
    step: int,
) -> Any:
    """Put zeros around a gradient of a part, as rotary positions take halves of a head.

    torch's own rule writes the gradient into zeros index by index.
    """
    if step == 1 and start == 0 and isinstance(end, int) and end >= sys.maxsize:  # all of the axis
        return op.Identity(grad_output)
    axis = dim % len(input_sizes)
    size, length = input_sizes[axis], grad_output.shape[axis]
    if all(isinstance(number, int) for number in (size, length, start)):
        begin = max(0, start + size) if start < 0 else min(start, size)
        length = min(length * step, size - begin)
        before, after = [0] * len(input_sizes), [0] * len(input_sizes)
        before[axis], after[axis] = begin, size - begin - length
        pads = op.Constant(value_ints=[*before, *after])
        cut = op.Constant(value_ints=[length])
    else:
        whole, first = _as_list(size), _as_list(start)
        if isinstance(start, int) and start < 0:
            first = op.Max(op.Add(whole, first), op.Constant(value_ints=[0]))
        first = op.Min(first, whole)
        part = op.Shape(grad_output, start=axis, end=axis + 1)
        room = op.Sub(whole, first)
        cut = op.Min(op.Mul(part, op.Constant(value_ints=[step])), room)
        others = [op.Constant(value_ints=[0])] * len(input_sizes)
        before, after = [*others], [*others]
        before[axis], after[axis] = first, op.Sub(room, cut)
        pads = op.Concat(*before, *after, axis=0)
    if step > 1:
        grad_output = _spread(grad_output, axis, step=step, length=cut)
    return op.Pad(grad_output, pads)


def _as_list(number: Any) -> Any:
    """A number, known or of the graph, as a tensor of one."""
    if isinstance(number, int):
        return op.Constant(value_ints=[number])
    return op.Reshape(number, op.Constant(value_ints=[-1]))


def _spread(value: Any, axis: int, *, step: int, length: Any) -> Any:
    """Put zeros between the entries of an axis, and cut it at a length."""
    behind = op.Constant(value_ints=[axis + 1])
    between = op.Unsqueeze(value, behind)
    padded = op.Pad(between, op.Constant(value_ints=[0, step - 1]), None, behind)
    sizes = op.Concat(
        op.Shape(value, start=0, end=axis),
        op.Constant(value_ints=[-1]),
        op.Shape(value, start=axis + 1),
        axis=0,
    )
    spread = op.Reshape(padded, sizes)
    axes = op.Constant(value_ints=[axis])
    return op.Slice(spread, op.Constant(value_ints=[0]), length, axes)


def sum_over_axes(self: Any, dim: Any = None, keepdim: bool = False, dtype: int = -1) -> Any:  # noqa: FBT001, FBT002 - ATen's signature
    """Sum the rows of a matrix, a bias's gradient, by a product; else as torch does."""
    if len(self.shape) == 2 and list(dim) == [0] and self.dtype == ir.DataType.FLOAT:
        sums = _column_sums(self)
        return op.Unsqueeze(sums, [0]) if keepdim else sums
    return aten_sum_dim_IntList(self, dim, keepdim, dtype)


def _column_sums(matrix: Any) -> Any:
    """Sum rows by a product with ones, twice as fast as ReduceSum."""
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(matrix, start=0, end=1))
    return op.MatMul(ones, matrix)


def count(self: Any) -> Any:
    """Count of a tensor's elements, by which a mean's gradient is divided."""
    return op.Size(self)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.native_layer_norm_backward.default: layer_norm_backward,
    aten.sum.dim_IntList: sum_over_axes,
    aten.sym_numel.default: count,
    aten.slice_backward.default: slice_backward,
    aten.gelu_backward.default: gelu_backward,
    aten._softmax_backward_data.default: softmax_backward,  # noqa: SLF001 - ATen's own name
    aten.embedding_dense_backward.default: embedding_backward,
    torch.ops.edgefuse.keep.default: keep_in_onnx,
    torch.ops.edgefuse.silu.default: silu_in_onnx,
    torch.ops.edgefuse.silu_backward.default: silu_backward_in_onnx,
    torch.ops.edgefuse.rms_norm.default: rms_norm_in_onnx,
    torch.ops.edgefuse.rms_norm_backward.default: rms_norm_backward_in_onnx,
    torch.ops.edgefuse.cross_entropy.default: cross_entropy_in_onnx,
    torch.ops.edgefuse.cross_entropy_backward.default: cross_entropy_backward_in_onnx,
}
