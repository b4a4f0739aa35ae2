"""An MLP whose matrices are products of two thin ones: no neurons are fused, I stays."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.low_rank import LowRankLinear
from edgefuse.mlps.layout import Layout
from edgefuse.mlps.mlp import MLP
from edgefuse.mlps.neurons import Activation, FusedNeurons, Neurons


@dataclass(frozen=True)
class Factors:
    """A matrix (m, n) of rank r.

    Attributes:
        left: (m, r).
        right: (r, n).
    """

    left: Tensor
    right: Tensor

    def product(self) -> Tensor:
        """The matrix (m, n)."""
        return self.left @ self.right


@dataclass(frozen=True)
class LowRank:
    """What stands for an MLP's matrices: y = down_left f + b2 with features f = down_right h.

    Attributes:
        up: Of (I, p).
        down: Of (p, I).
        up_bias: (I,), None where the architecture has none.
        gate: Of (I, p), None for a dense MLP.
        gate_bias: (I,), None without a gate or where the architecture has none.
        output_bias: What takes b2's place (p,); None leaves b2 alone.
    """

    up: Factors
    down: Factors
    up_bias: Tensor | None = None
    gate: Factors | None = None
    gate_bias: Tensor | None = None
    output_bias: Tensor | None = None

    @property
    def rank(self) -> int:
        """r, the same for every matrix."""
        return self.up.right.shape[0]

    def features(self, inputs: Tensor, activation: Activation) -> Tensor:
        """What `down`'s left factor reads, (…, r), of inputs (…, p)."""
        hidden = _linear(inputs, self.up, self.up_bias)
        if self.gate is None:
            hidden = activation(hidden)
        else:
            hidden = activation(_linear(inputs, self.gate, self.gate_bias)) * hidden
        return F.linear(hidden, self.down.right)

    def output(self, inputs: Tensor, activation: Activation, bias: Tensor | None) -> Tensor:
        """Map inputs (…, p) to y (…, p); `bias` (p,) is the block's own b2."""
        bias = bias if self.output_bias is None else self.output_bias
        return F.linear(self.features(inputs, activation), self.down.left, bias)

    @property
    def readout(self) -> Tensor:
        """What maps `features` to y, (p, r): the left factor of `down`."""
        return self.down.left

    def with_readout(self, left: Tensor, bias: Tensor | None) -> "LowRank":
        """The same with another left factor of `down` (p, r) and b2 (p,): what a refit gives."""
        return replace(self, down=replace(self.down, left=left), output_bias=bias)

    def parameters(self, bias: Tensor | None) -> dict[str, Tensor]:
        """What trains, by name; `bias` (p,) is the block's own b2."""
        bias = bias if self.output_bias is None else self.output_bias
        tensors = {"up_bias": self.up_bias, "gate_bias": self.gate_bias, "output_bias": bias}
        for name, factors in (("up", self.up), ("down", self.down), ("gate", self.gate)):
            if factors is not None:
                tensors[f"{name}.left"], tensors[f"{name}.right"] = factors.left, factors.right
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def with_parameters(self, parameters: dict[str, Tensor]) -> "LowRank":
        """The same with other tensors, of the names that `parameters` gave."""

        def factors(name: str) -> Factors:
            return Factors(parameters[f"{name}.left"], parameters[f"{name}.right"])

        return LowRank(
            up=factors("up"),
            down=factors("down"),
            up_bias=parameters.get("up_bias"),
            gate=factors("gate") if self.gate is not None else None,
            gate_bias=parameters.get("gate_bias"),
            output_bias=parameters.get("output_bias"),
        )

    def product(self) -> FusedNeurons:
        """The I neurons, P = 1, that compute the same."""
        neurons = Neurons(
            up=self.up.product(),
            down=self.down.product(),
            up_bias=self.up_bias,
            gate=None if self.gate is None else self.gate.product(),
            gate_bias=self.gate_bias,
        )
        return FusedNeurons(neurons, torch.ones_like(neurons.up[:, 0]), self.output_bias)


Replacement = FusedNeurons | LowRank
"""What takes an MLP's place."""


def neurons_of(one: Replacement) -> FusedNeurons:
    """What takes an MLP's place as neurons: products for factors."""
    return one.product() if isinstance(one, LowRank) else one


def _linear(inputs: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
    return F.linear(F.linear(inputs, factors.right), factors.left, bias)


def inseparable(layout: Layout) -> str | None:
    """Why an MLP's matrices cannot be replaced by products; None where they can."""
    for slot in layout.slots().values():
        if slot.expert is not None:
            return "its experts lie in one stack, where a matrix cannot become two"
        if slot.half is not None:
            return "its gate and up are one matrix, which cannot become four"
    return None


def install_low_rank(mlps: Sequence[MLP], low_rank: Sequence[LowRank]) -> None:
    """Put factors in MLPs' place in their model, as its parameters."""
    for mlp, one in zip(mlps, low_rank, strict=True):
        layout, model = mlp.layout, mlp.model
        own_bias = mlp.layer_view().bias
        bias = own_bias if one.output_bias is None else one.output_bias
        for slot, factors, its_bias in (
            (layout.up, one.up, one.up_bias),
            (layout.gate, one.gate, one.gate_bias),
            (layout.down, one.down, bias),
        ):
            if slot is not None and factors is not None:
                name = slot.name.removesuffix(".weight")
                transposed = isinstance(model.get_submodule(name), Conv1D)
                layer = LowRankLinear(factors.left, factors.right, its_bias, transposed=transposed)
                model.set_submodule(name, layer)


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Replace every `LowRankLinear` of a model, in place, by the plain layer of the same weight."""
    low_rank = [n for n, module in model.named_modules() if isinstance(module, LowRankLinear)]
    for name in low_rank:
        layer = model.get_submodule(name)
        assert isinstance(layer, LowRankLinear)
        model.set_submodule(name, layer.fold())
