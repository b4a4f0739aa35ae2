"""Linear layers of low rank."""

from torch import Tensor, nn

from edgefuse.layers.plain import conv1d_of, linear_of


class LowRankLinear(nn.Module):
    """A linear layer of rank r, both factors trainable.

    Attributes:
        right: n → r, without bias.
        left: r → m, with the layer's bias.
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

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map (…, n) to (…, m)."""
        output: Tensor = self.left(self.right(input))
        return output

    def fold(self) -> nn.Module:
        """The plain layer (m, n) that computes the same, as large as before the compression."""
        weight = self.left.weight.detach() @ self.right.weight.detach()
        return (conv1d_of if self.transposed else linear_of)(weight, self.left.bias)
