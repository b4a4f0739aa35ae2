"""Down-projections of fused MLPs, with the multiplicities P before them.

A fused MLP computes `y = W2 · (P ⊙ act(W1 x + b1)) + b2` (Wei et al., "NTK-approximating MLP
Fusion", ICML 2023, arXiv 2307.08941). P is a constant: it never trains. Where it stands decides
how the block learns, so that duplicated neurons, once fused, move as they did before:

- **Adam and its family**, whose step does not follow the gradient's size: keep P standalone, as
  `FusedLinear` does. Fold it into W2 (`plain()`) for inference only. What remains is Adam's eps,
  which is added to a root that is n_i times larger: a relative difference of eps / |gradient|.
- **SGD**: with P standalone the fused rows step n times too far. Scale the learning rate of W1's
  row i, b1[i] and W2's column i by 1/n_i.
- **Global-norm clipping**: the gradients of W1's row i, b1[i] and W2's column i stand for n_i
  neurons' and are n_i times theirs. In the norm, weigh them by 1/√n_i (their squares by 1/n_i).
- **Decoupled weight decay**: as it is.

An empty cluster has n = 0: its neuron adds nothing and gets no gradient, so any finite weight
(1, say) does in place of 1/n.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.plain import conv1d_of, linear_of


class FusedLinear(nn.Linear):
    """A down-projection whose inputs are first multiplied by the multiplicities P.

    Its `weight` (p, k) and `bias` (p,) keep the names and shapes of the `nn.Linear` it replaces.

    Attributes:
        multiplicity: Buffer of shape (k,), float: how many neurons each fused one stands for.
    """

    multiplicity: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, multiplicity: Tensor) -> None:
        """Make it from its tensors: weight (p, k), bias (p,) or None, multiplicity (k,)."""
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(bias)
        self.register_buffer("multiplicity", multiplicity.to(weight))

    @classmethod
    def from_plain(cls, layer: nn.Linear, multiplicity: Tensor) -> Self:
        """Put P (k,) before a layer, whose tensors it shares."""
        return cls(layer.weight.detach(), layer.bias, multiplicity)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map activations (…, k) to outputs (…, p)."""
        return F.linear(input * self.multiplicity, self.weight, self.bias)

    def plain_weight(self) -> Tensor:
        """W2·diag(P) (p, k)."""
        return self.weight * self.multiplicity

    def plain(self) -> nn.Linear:
        """The layer with the weight W2·diag(P)."""
        return linear_of(self.plain_weight().detach(), self.bias)


class FusedConv1D(Conv1D):
    """The like of `FusedLinear` for GPT-2's layers, whose `weight` lies (k, p).

    Attributes:
        multiplicity: Buffer of shape (k,), float: how many neurons each fused one stands for.
    """

    multiplicity: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, multiplicity: Tensor) -> None:
        """Make it from its tensors: weight (k, p), bias (p,), multiplicity (k,)."""
        in_features, out_features = weight.shape
        with torch.device("meta"):
            super().__init__(out_features, in_features)  # type: ignore[no-untyped-call]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.register_buffer("multiplicity", multiplicity.to(weight))

    @classmethod
    def from_plain(cls, layer: Conv1D, multiplicity: Tensor) -> Self:
        """Put P (k,) before a layer, whose tensors it shares."""
        return cls(layer.weight.detach(), layer.bias, multiplicity)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (…, k) to outputs (…, p)."""
        output: Tensor = super().forward(x * self.multiplicity)  # type: ignore[no-untyped-call]
        return output

    def plain_weight(self) -> Tensor:
        """(W2·diag(P))ᵀ (k, p)."""
        return self.weight * self.multiplicity[:, None]

    def plain(self) -> Conv1D:
        """The layer with the weight W2·diag(P)."""
        return conv1d_of(self.plain_weight().detach().T, self.bias)


def unfold(folded_weight: Tensor, multiplicity: Tensor) -> Tensor:
    """Divide P out of a weight W2·diag(P) (p, k); columns of empty clusters are zero."""
    return folded_weight / torch.where(multiplicity == 0, 1, multiplicity)
