"""The second stage: the output of the fused neurons fitted to the original's, in closed form."""

import torch
from torch import Tensor

from edgefuse.mlps.low_rank import Replacement
from edgefuse.mlps.neurons import Layer, in_parts

_RIDGE = 1e-4  # of the features' mean variance


def refit(layer: Layer, fused: Replacement) -> Replacement:
    """Fit `down`, and b2 where there is one, to the MLP's outputs on its calibration inputs.

    With Z = P ⊙ h_fused and Y = W2 h: down ← argmin ‖Z downᵀ − Y‖² + λ‖downᵀ − down₀ᵀ‖², on centred
    Z and Y where the architecture has a b2, which then takes b2 + Y̅ − Z̅ downᵀ. P stays.

    Args:
        layer: The MLP, with calibration inputs. Without any (an expert that no token reaches)
            nothing changes.
        fused: What is to take its place.
    """
    assert layer.inputs is not None
    count = len(layer.inputs)
    if count == 0:
        return fused
    neurons, down = layer.neurons, fused.readout.double()
    hidden_size, width = down.shape
    gram = down.new_zeros(width, width)
    cross = down.new_zeros(width, hidden_size)
    sum_z, sum_y = down.new_zeros(width), down.new_zeros(hidden_size)
    for inputs in in_parts(layer.inputs):
        z = fused.features(inputs, layer.activation)
        y = neurons.hidden(inputs, layer.activation) @ neurons.down.T
        gram += z.T @ z
        cross += z.T @ y
        sum_z += z.sum(dim=0, dtype=torch.float64)
        sum_y += y.sum(dim=0, dtype=torch.float64)
    if layer.bias is not None:
        gram -= torch.outer(sum_z, sum_z) / count
        cross -= torch.outer(sum_z, sum_y) / count
    penalty = _RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    gram.diagonal().add_(penalty)
    solved: Tensor = torch.linalg.solve(gram, cross + penalty * down.T).T
    bias = None
    if layer.bias is not None:
        bias = (layer.bias.double() + (sum_y - solved @ sum_z) / count).to(layer.bias)
    return fused.with_readout(solved.to(fused.readout).contiguous(), bias)
