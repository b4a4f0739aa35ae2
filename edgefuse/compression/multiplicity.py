"""P chosen so that the narrow MLP learns as the wide one does."""

from dataclasses import replace

import torch
from scipy.optimize import nnls
from torch import Tensor

from edgefuse.mlps.neurons import FusedNeurons, Layer, in_parts

_LEAST = 0.25  # down is divided by P: a neuron must not vanish from the gradient
_RIDGE = 1e-2  # of the mean diagonal; keeps few neurons from standing for all


def match_kernel(layer: Layer, fused: FusedNeurons) -> FusedNeurons:
    """Give the fused neurons the P that keeps the sign-NTK best; what they compute stays.

    Under Adam, a step follows the gradient's sign. The part of the sign-NTK that comes from `down`
    is K = H sign(H)ᵀ ‖v‖₁, H being the hidden values (tokens, I) and v the direction in which the
    output is read. Fused, with Z the k neurons' values, it is Z diag(P) sign(Z)ᵀ ‖v‖₁: linear in P.
    So P ≥ ¼ is a least-squares problem whose matrices need no kernel, only Gram matrices:
    M = (ZᵀZ) ⊙ (sign(Z)ᵀ sign(Z)), q = (ZᵀH ⊙ sign(Z)ᵀ sign(H)) 1. It is drawn a little to one
    common value; but for that, P is the counts of MLP Fusion where duplicates were merged. The
    other part, of up's and gate's gradients, is the same for every P: `down` is divided by it.

    Args:
        layer: The MLP, with calibration inputs. Without any nothing changes.
        fused: What is to take its place.
    """
    assert layer.inputs is not None
    if len(layer.inputs) == 0:
        return fused
    width, full = fused.neurons.width, layer.neurons.width
    zz, zh = layer.inputs.new_zeros(width, width), layer.inputs.new_zeros(width, full)
    ss, sh = zz.clone(), zh.clone()
    for inputs in in_parts(layer.inputs):
        z = fused.neurons.hidden(inputs, layer.activation)
        h = layer.neurons.hidden(inputs, layer.activation)
        zz += z.T @ z
        zh += z.T @ h
        ss += z.sign().T @ z.sign()
        sh += z.sign().T @ h.sign()
    multiplicity = _bounded_least_squares(
        zz.double() * ss.double(), (zh.double() * sh.double()).sum(dim=1)
    ).to(fused.multiplicity)
    down = fused.neurons.down * (fused.multiplicity / multiplicity)
    return replace(fused, neurons=fused.neurons.with_down(down), multiplicity=multiplicity)


def _bounded_least_squares(matrix: Tensor, target: Tensor) -> Tensor:
    """The x ≥ `_LEAST` of least xᵀMx/2 − qᵀx, drawn a little to one common value.

    With M + λ = LLᵀ that is the least ‖Lᵀx − L⁻¹(q + λ · common)‖², and above `_LEAST` a
    non-negative least-squares problem.
    """
    scale = matrix.diagonal().mean()
    if not scale > 0:
        return torch.ones_like(target)
    common = (target.sum() / matrix.sum()).clamp(min=_LEAST)
    penalty = _RIDGE * scale
    lower = torch.linalg.cholesky(matrix + penalty * torch.eye(len(matrix)).to(matrix))
    wanted = (target + penalty * common)[:, None]
    right = torch.linalg.solve_triangular(lower, wanted, upper=False)[:, 0]
    right = right - _LEAST * lower.sum(dim=0)
    most = 10 * len(
        target
    )  # far more than it takes: three for each, scipy's own, are nearly enough
    above, _ = nnls(lower.T.cpu().numpy(), right.cpu().numpy(), maxiter=most)
    return torch.from_numpy(above).to(target) + _LEAST
