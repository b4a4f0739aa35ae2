"""How faithful what takes an MLP's place is: to its output, and to how it learns."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from edgefuse.mlps.low_rank import Replacement
from edgefuse.mlps.neurons import FusedNeurons, Layer, in_parts

_DIRECTIONS = 8
_NTK_TOKENS = 256  # kernels have a row and a column a token


@dataclass(frozen=True)
class Fidelity:
    """Errors relative to the MLP as it was, on held-out inputs; 0 for a perfect copy.

    Attributes:
        output_error: ‖y_fused − y‖ / ‖y‖.
        sign_ntk_error: ‖K_fused − K‖_F / ‖K‖_F, K = G sign(G)ᵀ: how Adam moves it.
        ntk_error: The same for K = G Gᵀ: how gradient descent moves it.
    """

    output_error: float
    sign_ntk_error: float
    ntk_error: float


def measure_fidelity(layer: Layer, replacement: Replacement, inputs: Tensor) -> Fidelity | None:
    """Compare an MLP and what takes its place, before the residual is added.

    G has a token's gradients of the output's projection on a random direction with respect to
    all of the MLP's parameters; kernels are averaged over a few directions, the same for both.

    Args:
        layer: The MLP.
        replacement: What takes its place.
        inputs: Held-out inputs (n, p) of the unfused model, so that no layer is charged for
            another's error.

    Returns:
        The errors; None without inputs (an expert that no token reaches).
    """
    if len(inputs) == 0:
        return None
    original = FusedNeurons(layer.neurons, torch.ones_like(layer.neurons.up[:, 0]))
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(_DIRECTIONS, layer.neurons.hidden_size, generator=generator)
    # Tokens are in order of length and text: take them from everywhere.
    few = inputs[torch.linspace(0, len(inputs) - 1, min(_NTK_TOKENS, len(inputs))).long()]
    difference, power = squared_error(layer, replacement, inputs)
    kernels = [_kernels(layer, one, few, directions) for one in (original, replacement)]
    return Fidelity(
        (difference / power) ** 0.5 if power else 0.0,
        *(_relative(fused, exact) for exact, fused in zip(*kernels, strict=True)),
    )


@torch.no_grad()
def squared_error(layer: Layer, replacement: Replacement, inputs: Tensor) -> tuple[float, float]:
    """‖y_fused − y‖² and ‖y‖² of the output on inputs (n, p), summed over tokens."""
    difference = power = 0.0
    for some in in_parts(inputs):
        y = layer.output(some)
        other = replacement.output(some, layer.activation, layer.bias)
        difference += float((other - y).double().square().sum())
        power += float(y.double().square().sum())
    return difference, power


def _relative(fused: Tensor, exact: Tensor) -> float:
    norm = float(exact.norm())
    return float((fused - exact).norm()) / norm if norm else 0.0


class _Linears(TorchFunctionMode):
    """Notes inputs, outputs and biases of the linear maps that are computed within."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, bool]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.linear:
            self.calls.append((args[0].detach(), result, len(args) > 2 and args[2] is not None))
        return result


@torch.enable_grad()
def _kernels(
    layer: Layer, one: Replacement, inputs: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Sign-NTK and NTK, (n, n) each.

    A token's gradient of a linear map's weight is an outer product of what comes back to its
    output and its input, so that kernels are products of small Gram matrices.
    """
    with _Linears() as linears:
        y = one.output(inputs.clone().requires_grad_(), layer.activation, layer.bias)
    outputs = [call[1] for call in linears.calls]
    sign_ntk = inputs.new_zeros(len(inputs), len(inputs))
    ntk = sign_ntk.clone()
    for direction in directions.to(inputs):
        back = torch.autograd.grad((y @ direction).sum(), outputs, retain_graph=True)
        for (x, _, has_bias), g in zip(linears.calls, back, strict=True):
            sign_ntk += (g @ g.sign().T) * (x @ x.sign().T + has_bias)
            ntk += (g @ g.T) * (x @ x.T + has_bias)
    return sign_ntk / len(directions), ntk / len(directions)
