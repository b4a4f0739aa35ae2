"""Coresets: k learned points whose distribution is nearest to that of the neurons."""

import torch
import torch.nn.functional as F
from torch import Tensor

from edgefuse.mlps.neurons import FusedNeurons, Layer

_STEPS = 100
_BATCH = 1024  # neurons seen in a step
_RATE = 0.1  # of Adam, in standard deviations of the weights
_BANDWIDTHS = 5  # 2σ² from four times the median squared distance down to a quarter of it


def mmd(layer: Layer, width: int, seed: int) -> FusedNeurons:
    """Learn k points of least maximum mean discrepancy to the I neurons; P = I/k for each.

    Every point stands for as many neurons; b2 is not scaled (Wei et al., ICML 2023,
    arXiv 2307.08941, baselines). The kernel is the sum of five Gaussian ones, 2σ² a quarter to
    four times the median squared distance. Adam starts from k of the neurons.

    Args:
        layer: An MLP, dense or gated.
        width: k, from 1 to I.
        seed: Seed of the neurons to start from, and of the batches.
    """
    neurons = layer.neurons
    rows = neurons.rows()
    points = torch.cat([rows, neurons.down.T], dim=1)
    learned = _minimise(points, width, torch.Generator().manual_seed(seed))
    fused = neurons.with_rows(learned[:, : rows.shape[1]], learned[:, rows.shape[1] :].T)
    return FusedNeurons(fused, points.new_full((width,), neurons.width / width))


@torch.enable_grad()
def _minimise(points: Tensor, width: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(points), generator=generator).to(points.device)
    median = _median(points[order[:1024]])
    spread = points.std()
    # Off the neurons by a hair: points that start as one would get one gradient for ever.
    noise = torch.randn(width, points.shape[1], generator=generator).to(points)
    learned = (points[order[:width]] + 0.01 * spread * noise).requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=_RATE * float(spread))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, _STEPS)
    for _ in range(_STEPS):
        batch = points[torch.randperm(len(points), generator=generator)[:_BATCH]]
        # The term of the neurons among themselves is constant and left out.
        loss = _kernel(learned, learned, median).mean() - 2 * _kernel(learned, batch, median).mean()
        (learned.grad,) = torch.autograd.grad(loss, learned)
        optimizer.step()
        schedule.step()
    return learned.detach()


def _kernel(a: Tensor, b: Tensor, median: Tensor) -> Tensor:
    """Between points (m, d) and (n, d): (m, n)."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    kernel = torch.exp(-squares.clamp(min=0) / (4 * median))
    total = kernel
    for _ in range(_BANDWIDTHS - 1):
        kernel = kernel.square()  # 2σ² halved
        total = total + kernel
    return total


def _median(points: Tensor) -> Tensor:
    """Median of the squared distances between different points; 1 where there are none."""
    distances = F.pdist(points).square()
    distances = distances[distances > 0]
    return distances.median() if len(distances) else points.new_ones(())
