"""Make an MLP's matrices products of two thin ones: no neurons are fused, I stays."""

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
        left: Left factor (m, r).
        right: Right factor (r, n).
    """

    left: Tensor
    right: Tensor

    def product(self) -> Tensor:
        """Multiply the factors into the matrix (m, n)."""
        return self.left @ self.right


@dataclass(frozen=True)
class LowRank:
    """An MLP in factors: y = down_left f + b2 with features f = down_right h.

    Attributes:
        up: Factors of W1 (I, p).
        down: Factors of W2 (p, I).
        up_bias: b1 (I,), None where the architecture has none.
        gate: Factors of the gate's matrix (I, p), None for a dense MLP.
        gate_bias: Bias of the gate (I,), None without one.
        output_bias: Bias (p,) in place of b2; None leaves b2 alone.
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
        """Compute what `down`'s left factor reads, (…, r), of inputs (…, p)."""
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
        """The matrix (p, r) that maps `features` to y: the left factor of `down`."""
        return self.down.left

    def with_readout(self, left: Tensor, bias: Tensor | None) -> "LowRank":
        """Replace the left factor of `down` (p, r) and b2 (p,), as a refit does."""
        return replace(self, down=replace(self.down, left=left), output_bias=bias)

    def parameters(self, bias: Tensor | None) -> dict[str, Tensor]:
        """List what trains, by name; `bias` (p,) is the block's own b2."""
        bias = bias if self.output_bias is None else self.output_bias
        tensors = {"up_bias": self.up_bias, "gate_bias": self.gate_bias, "output_bias": bias}
        for name, factors in (("up", self.up), ("down", self.down), ("gate", self.gate)):
            if factors is not None:
                tensors[f"{name}.left"], tensors[f"{name}.right"] = factors.left, factors.right
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def with_parameters(self, parameters: dict[str, Tensor]) -> "LowRank":
        """Replace all tensors by others, of the names that `parameters` gave."""

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
        """Make the I neurons, P = 1, that compute the same."""
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
    """Make neurons of what takes an MLP's place: products of factors."""
    return one.product() if isinstance(one, LowRank) else one


def _linear(inputs: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
    return F.linear(F.linear(inputs, factors.right), factors.left, bias)


def inseparable(layout: Layout) -> str | None:
    """Explain why an MLP's matrices cannot be replaced by products; None where they can."""
    for slot in layout.slots().values():
        if slot.expert is not None:
            return "its experts lie in one stack, where a matrix cannot become two"
        if slot.half is not None:
            return "its gate and up are one matrix, which cannot become four"
    return None


def make_room(mlps: Sequence[MLP], ranks: Sequence[int]) -> None:
    """Put factors of these ranks in MLPs' place, without values: a model to load weights into.

    Args:
        mlps: MLPs of a plain model on the meta device.
        ranks: Rank r of each one's matrices.
    """
    for mlp, rank in zip(mlps, ranks, strict=True):
        width, hidden_size = mlp.width, mlp.hidden_size
        gate = _empty(width, hidden_size, rank) if mlp.gated else None
        up, down = _empty(width, hidden_size, rank), _empty(hidden_size, width, rank)
        install_low_rank([mlp], [LowRank(up=up, down=down, gate=gate)])


def install_low_rank(mlps: Sequence[MLP], low_rank: Sequence[LowRank]) -> None:
    """Put factors in MLPs' place in their model, as its parameters."""
    for mlp, one in zip(mlps, low_rank, strict=True):
        for slot, factors, bias in (
            (mlp.layout.up, one.up, one.up_bias),
            (mlp.layout.gate, one.gate, one.gate_bias),
            (mlp.layout.down, one.down, one.output_bias),
        ):
            if slot is not None and factors is not None:
                name = slot.name.removesuffix(".weight")
                layer = mlp.model.get_submodule(name)
                assert isinstance(layer, nn.Linear | Conv1D)
                if bias is not None:
                    layer.bias = nn.Parameter(bias)
                mlp.model.set_submodule(
                    name, LowRankLinear.from_plain(layer, factors.left, factors.right)
                )


def write_low_rank(layout: Layout, low_rank: LowRank, bias: Tensor | None) -> dict[str, Tensor]:
    """Name the tensors of an MLP's factors as `install_low_rank` would in the model.

    Args:
        layout: Where the plain MLP lies.
        low_rank: What takes its place.
        bias: The MLP's own b2 (p,), or None.
    """
    tensors = {}
    for part, tensor in low_rank.parameters(bias).items():
        role, _, side = part.partition(".")
        slot = layout.slots()["bias" if role == "output_bias" else role]
        left, *right = factor_names(slot.name)
        tensors[right[0] if side == "right" else left] = tensor
    return tensors


def factor_names(name: str) -> tuple[str, ...]:
    """Names of what a plain layer's weight or bias becomes: two factors' weights, or one's bias."""
    path, _, attribute = name.rpartition(".")
    sides = ("left", "right") if attribute == "weight" else ("left",)
    return tuple(f"{path}.{side}.{attribute}" for side in sides)


def _empty(rows: int, columns: int, rank: int) -> Factors:
    return Factors(torch.empty(rows, rank), torch.empty(rank, columns))
