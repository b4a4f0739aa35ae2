"""Widths are shared out among MLPs by their outputs' errors, under one budget of parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression
from torch import Tensor

from edgefuse.compression.methods.select import residual_curve
from edgefuse.compression.plan import LayerPlan, parameter_count, plan_layer
from edgefuse.mlps.mlp import MLP, by_stack
from edgefuse.mlps.neurons import in_parts
from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown

ALLOCATIONS = ("even", "sensitivity")

_LEAST = 16  # a sixteenth of its width is left to every MLP
_STEP = 8


@dataclass(frozen=True)
class _Curve:
    """What becomes of an MLP's output at every width that it may have.

    Attributes:
        widths: Widths, ascending.
        errors: ‖y_fused − y‖² at each width, summed over tokens.
        power: ‖y‖², summed over tokens.
    """

    widths: NDArray[np.int64]
    errors: NDArray[np.float64]
    power: float


@dataclass(frozen=True)
class _Steps:
    """The ways from the least width of one MLP, or of experts in one stack, to the next ones.

    Attributes:
        gains: Decrease of the error for each parameter, falling.
        costs: Parameters of each step.
    """

    gains: NDArray[np.float64]
    costs: NDArray[np.int64]


def check_allocation(name: str, *, has_text: bool) -> None:
    """Refuse an allocation that is not known, or cannot be had.

    Raises:
        InputError: It is none of `ALLOCATIONS`, or needs text that there is not.
    """
    if name not in ALLOCATIONS:
        raise InputError(*unknown("allocation", name, ALLOCATIONS))
    if name == "sensitivity" and not has_text:
        raise InputError(
            "Sharing widths out by sensitivity needs text to measure it on",
            "Give --calibration a file of example texts, or leave --allocation out",
        )


def allocate(
    mlps: Sequence[MLP],
    inputs: Sequence[Tensor],
    plans: Sequence[LayerPlan],
    effects: Mapping[int, float],
) -> tuple[LayerPlan, ...]:
    """Share the parameters of an even plan out anew.

    Minimises the sum over layers of effect × ‖y_fused − y‖² / ‖y‖², as selecting neurons and a
    refit leave it: from a sixteenth of every width on, a few neurons go to where a parameter gains
    most, until the budget is spent. The curves are made convex, for which that is optimal.

    Args:
        mlps: MLPs to fuse.
        inputs: Inputs of each MLP (n, p). An expert without any counts nothing.
        plans: Even plan of each MLP.
        effects: Effect of each layer, from `measure_effects`.

    Returns:
        Plans of other widths, multiples of 8 where there are at least 64 neurons; one width for
        all experts of a stack.
    """
    curves = [_curve(m, x, plan) for m, x, plan in zip(mlps, inputs, plans, strict=True)]
    groups = by_stack(mlps)
    power = {mlp.layer: 0.0 for mlp in mlps}
    for mlp, curve in zip(mlps, curves, strict=True):
        power[mlp.layer] += curve.power
    steps = []
    for group in groups:
        costs = np.sum([_costs(mlps[index], curves[index]) for index in group], axis=0)
        errors = np.sum([curves[index].errors for index in group], axis=0)
        layer = mlps[group[0]].layer
        gains = -np.diff(errors) * effects[layer] / (power[layer] or 1.0) / costs
        convex = isotonic_regression(gains, sample_weight=costs, increasing=False)
        steps.append(_Steps(convex, costs))
    budget = sum(
        plan.parameters_after - parameter_count(mlp, int(curve.widths[0]))
        for mlp, curve, plan in zip(mlps, curves, plans, strict=True)
    )
    taken = _take(steps, budget)
    widths = {
        index: int(curves[index].widths[count])
        for group, count in zip(groups, taken, strict=True)
        for index in group
    }
    return tuple(plan_layer(mlp, widths[index]) for index, mlp in enumerate(mlps))


def _take(steps: Sequence[_Steps], budget: int) -> list[int]:
    """How many steps of each are taken: the best ones first, while they fit."""
    order = sorted(
        (-gain, which, number)
        for which, one in enumerate(steps)
        for number, gain in enumerate(one.gains.tolist())
    )
    taken = [0] * len(steps)
    for _, which, number in order:
        cost = int(steps[which].costs[number])
        if number == taken[which] and cost <= budget:
            taken[which] += 1
            budget -= cost
    return taken


def _costs(mlp: MLP, curve: _Curve) -> NDArray[np.int64]:
    return np.diff([parameter_count(mlp, width) for width in curve.widths.tolist()])


@torch.no_grad()
def _curve(mlp: MLP, inputs: Tensor, plan: LayerPlan) -> _Curve:
    widths = _widths(mlp, plan.width_after)
    if len(inputs) == 0:
        return _Curve(widths, np.zeros(len(widths)), 0.0)
    view = replace(mlp.layer_view(), inputs=inputs)
    power = sum(float(view.output(some).double().square().sum()) for some in in_parts(inputs))
    known, errors = residual_curve(view, int(widths[0]))
    return _Curve(widths, np.interp(widths, known, errors), power)


def _widths(mlp: MLP, even: int) -> NDArray[np.int64]:
    """From a sixteenth, or the even width if that is less, to all."""
    step = _STEP if mlp.width >= _STEP * _STEP else mlp.width_step
    least = min(even, max(1, round(mlp.width / _LEAST / step)) * step)
    between = np.arange(step * (least // step + 1), mlp.width, step)
    return np.unique([least, *between, mlp.width])
