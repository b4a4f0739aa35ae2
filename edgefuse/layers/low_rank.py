"""Linear layers of low rank."""

from typing import Self

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.plain import conv1d_of, linear_of


class LowRankLinear(nn.Module):
    """A linear layer of rank r, both factors trainable.

    Attributes:
        right: Layer n → r, without bias.
        left: Layer r → m, with the whole's bias.
        transposed: It is in the place of a `Conv1D`, whose matrix lies (n, m).
    """

    def __init__(
        self, left: Tensor, right: Tensor, bias: Tensor | None, *, transposed: bool = False
    ) -> None:
        """Make it from its tensors: left (m, r), right (r, n), and a bias (m,) or None."""
        super().__init__()
        self.transposed = transposed
        self.right = linear_of(right, None)
        self.left = linear_of(left, bias)
        self.in_features, self.out_features = self.right.in_features, self.left.out_features

    @classmethod
    def from_plain(cls, layer: nn.Linear | Conv1D, left: Tensor, right: Tensor) -> Self:
        """Put factors in the place of a layer's matrix, whose type they take; its bias stays."""
        bias = None if layer.bias is None else layer.bias.detach()
        left, right = left.to(layer.weight), right.to(layer.weight)
        return cls(left, right, bias, transposed=isinstance(layer, Conv1D))

    @property
    def weight(self) -> Tensor:
        """The matrix (m, n), where models look for its type, or draw one anew."""
        product: Tensor = self.left.weight @ self.right.weight
        return product

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map (…, n) to (…, m)."""
        output: Tensor = self.left(self.right(input))
        return output

    def plain(self) -> nn.Linear | Conv1D:
        """The layer with the product of both as its matrix."""
        return (conv1d_of if self.transposed else linear_of)(self.weight.detach(), self.left.bias)
