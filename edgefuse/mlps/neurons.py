"""Neurons of one MLP, whatever module holds them: what every method takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


_TOKENS_AT_ONCE = 4096  # hidden values of all calibration tokens would not fit


def in_parts(inputs: Tensor) -> tuple[Tensor, ...]:
    """Split inputs (n, p) into parts of some thousand tokens."""
    return torch.split(inputs, _TOKENS_AT_ONCE)


@dataclass(frozen=True)
class Neurons:
    """The sub-MLPs of an MLP: neuron i is row i of `up` (and of `gate`) and column i of `down`.

    Dense: h = act(up x + up_bias). Gated: h = act(gate x + gate_bias) ⊙ (up x + up_bias). In both
    y = down h + b2, and b2 is not a neuron's.

    Attributes:
        up: W1 (I, p).
        down: W2 (p, I).
        up_bias: b1 (I,), None where the architecture has none.
        gate: Matrix of the gate (I, p), None for a dense MLP.
        gate_bias: Bias of the gate (I,), None without a gate or where the architecture has none.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None = None
    gate: Tensor | None = None
    gate_bias: Tensor | None = None

    @property
    def width(self) -> int:
        """I, the count of neurons."""
        return self.up.shape[0]

    @property
    def hidden_size(self) -> int:
        """p, the size of the MLP's input and output."""
        return self.up.shape[1]

    def hidden(self, inputs: Tensor, activation: Activation) -> Tensor:
        """Compute the neurons' values h, (…, I), of inputs (…, p)."""
        up = F.linear(inputs, self.up, self.up_bias)
        if self.gate is None:
            return activation(up)
        return activation(F.linear(inputs, self.gate, self.gate_bias)) * up

    def rows(self) -> Tensor:
        """Join what neurons read, (I, d): up, its bias, gate and its bias side by side."""
        parts = [self.up, self.up_bias, self.gate, self.gate_bias]
        return torch.cat([p.reshape(self.width, -1) for p in parts if p is not None], dim=1)

    def with_rows(self, rows: Tensor, down: Tensor) -> "Neurons":
        """Make neurons of another width: the inverse of `rows`.

        Args:
            rows: What they read, (k, d).
            down: Columns of the neurons in `down` (p, k).
        """
        parts = [self.up, self.up_bias, self.gate, self.gate_bias]
        sizes = [p[0].numel() for p in parts if p is not None]
        pieces = iter(torch.split(rows, sizes, dim=1))
        up, up_bias, gate, gate_bias = (
            None if p is None else next(pieces).reshape(-1, *p.shape[1:]).contiguous()
            for p in parts
        )
        assert up is not None
        return Neurons(up, down.contiguous(), up_bias, gate, gate_bias)

    def select(self, index: Tensor) -> "Neurons":
        """Choose the neurons of these indices (k,), in this order."""
        return self.with_rows(self.rows()[index], self.down[:, index])

    def with_down(self, down: Tensor) -> "Neurons":
        """Replace the columns `down` (p, I)."""
        return replace(self, down=down)


@dataclass(frozen=True)
class FusedNeurons:
    """The k neurons that stand for all: y = down (P ⊙ h) + b2.

    Attributes:
        neurons: The k neurons.
        multiplicity: P's diagonal (k,), how many neurons each stands for, as floats.
        output_bias: Bias (p,) in place of b2; None leaves b2 alone.
    """

    neurons: Neurons
    multiplicity: Tensor
    output_bias: Tensor | None = None

    @property
    def readout(self) -> Tensor:
        """The matrix (p, k) that maps `features` to y: `down`."""
        return self.neurons.down

    def features(self, inputs: Tensor, activation: Activation) -> Tensor:
        """Compute P ⊙ h, (…, k), of inputs (…, p)."""
        return self.neurons.hidden(inputs, activation) * self.multiplicity

    def with_readout(self, readout: Tensor, bias: Tensor | None) -> "FusedNeurons":
        """Replace `down` (p, k) and b2 (p,), as a refit does."""
        return replace(self, neurons=self.neurons.with_down(readout), output_bias=bias)

    def output(self, inputs: Tensor, activation: Activation, bias: Tensor | None) -> Tensor:
        """Map inputs (…, p) to y (…, p); `bias` (p,) is the block's own b2."""
        bias = bias if self.output_bias is None else self.output_bias
        return F.linear(self.features(inputs, activation), self.readout, bias)

    def parameters(self, bias: Tensor | None) -> dict[str, Tensor]:
        """List what trains, by name; `bias` (p,) is the block's own b2."""
        bias = bias if self.output_bias is None else self.output_bias
        tensors = {**vars(self.neurons), "output_bias": bias}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def with_parameters(self, parameters: dict[str, Tensor]) -> "FusedNeurons":
        """Replace all tensors by others, of the names that `parameters` gave."""
        tensors = dict(parameters)
        bias = tensors.pop("output_bias", None)
        return replace(self, neurons=Neurons(**tensors), output_bias=bias)


@dataclass(frozen=True)
class Layer:
    """An MLP as a method gets it.

    Attributes:
        neurons: Neurons of the MLP, detached, float32.
        activation: act.
        bias: b2 (p,), None where the architecture has none.
        inputs: Calibration inputs (n, p), one row a token that is not padding; None without text.
        name: Name of the MLP in its model.
    """

    neurons: Neurons
    activation: Activation
    bias: Tensor | None = None
    inputs: Tensor | None = None
    name: str = ""

    def to(self, device: torch.device) -> "Layer":
        """Move all tensors to a device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        neurons = Neurons(**{name: moved(tensor) for name, tensor in vars(self.neurons).items()})  # type: ignore[arg-type]
        return replace(self, neurons=neurons, bias=moved(self.bias), inputs=moved(self.inputs))

    def output(self, inputs: Tensor) -> Tensor:
        """Map inputs (…, p) to y (…, p)."""
        hidden = self.neurons.hidden(inputs, self.activation)
        return F.linear(hidden, self.neurons.down, self.bias)
