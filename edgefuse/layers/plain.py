"""Make plain layers of tensors that are there already, without drawing new ones first."""

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make the layer with a weight (m, n) and a bias (m,) or None, on any device, meta too."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def conv1d_of(weight: Tensor, bias: Tensor | None) -> Conv1D:
    """Make GPT-2's layer with a weight (m, n), which it stores as (n, m), and a bias (m,)."""
    assert bias is not None, "a Conv1D has one"
    with torch.device("meta"):
        conv: Conv1D = Conv1D(*weight.shape)  # type: ignore[no-untyped-call]
    conv.weight, conv.bias = nn.Parameter(weight.T.contiguous()), nn.Parameter(bias)
    return conv
