"""The fused block's down-projection, with P (the cluster sizes) standalone.

A fused MLP computes `y = W2 · (P ⊙ act(W1 x + b1)) + b2` (Wei et al., "NTK-approximating MLP
Fusion", ICML 2023, arXiv 2307.08941). P is a constant: it never trains. Where it stands decides
how the block learns, so that duplicated neurons, once fused, move as they did before:

- **Adam and its family**, whose step does not follow the gradient's size: keep P standalone, as
  `FusedLinear` does. Fold it into W2 (`fold`) for inference only. What remains is Adam's eps,
  which is added to a root that is n_i times larger: a relative difference of eps / |gradient|.
- **SGD**: with P standalone the fused rows step n times too far. Scale the learning rate of W1's
  row i, b1[i] and W2's column i by 1/n_i.
- **Global-norm clipping**: the gradients of W1's row i, b1[i] and W2's column i stand for n_i
  neurons' and are n_i times theirs. In the norm, weigh them by 1/√n_i (their squares by 1/n_i).
- **Decoupled weight decay**: as it is.

An empty cluster has n = 0: its neuron adds nothing and gets no gradient, so any finite weight
(1, say) does in place of 1/n.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedLinear(nn.Linear):
    """A down-projection whose inputs are first multiplied by the cluster sizes P.

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

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map activations (…, k) to outputs (…, p)."""
        return F.linear(input * self.multiplicity, self.weight, self.bias)

    def fold(self) -> nn.Linear:
        """The plain layer that computes the same: weight W2·diag(P). For inference only."""
        folded = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        folded.weight = nn.Parameter(self.weight.detach() * self.multiplicity)
        folded.bias = self.bias
        return folded


def unfold(folded_weight: Tensor, multiplicity: Tensor) -> Tensor:
    """The W2 (p, k) whose folded form is `folded_weight`; zero where a cluster is empty."""
    return folded_weight / multiplicity.clamp(min=1)


def multiplicities(model: nn.Module) -> dict[str, Tensor]:
    """P of every fused block, shape (k,), by the name of its down-projection.

    Args:
        model: Any module.

    Returns:
        Such as `{"encoder.layer.0.output.dense": tensor([...])}`; empty for an unfused model.
    """
    return {
        name: module.multiplicity
        for name, module in model.named_modules()
        if isinstance(module, FusedLinear)
    }


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Replace every `FusedLinear` of a model, in place, by the plain layer that computes the same.

    For inference only: folded, duplicated neurons no longer learn as they did under Adam.
    """
    for name in multiplicities(model):
        fused = model.get_submodule(name)
        assert isinstance(fused, FusedLinear)
        model.set_submodule(name, fused.fold())
