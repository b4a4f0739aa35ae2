"""What a compression would do to every MLP, decided before anything is done."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse.mlps.mlp import MLP
from edgefuse_devices.errors import InputError, ModelError

DEFAULT_RATIO = 0.25


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one MLP; in a mixture of experts, of one expert.

    Attributes:
        layer: Index from 0, bottom first.
        expert: Index from 0 within the layer; None for an MLP that every token passes.
        name: Name of the module that holds the MLP.
        width_before: I.
        width_after: k; equal to I where the layer stays as it is.
        parameters_before: Elements of its matrices and biases (P is a constant, not counted).
        parameters_after: The same at width k.
        kind: What takes its place: `fused` or `low-rank`.
    """

    layer: int
    expert: int | None
    name: str
    width_before: int
    width_after: int
    parameters_before: int
    parameters_after: int
    kind: str = "fused"


def plan_layers(
    mlps: Sequence[MLP],
    *,
    ratio: float | None = None,
    width: int | None = None,
    layers: str | None = None,
) -> tuple[LayerPlan, ...]:
    """Plan the MLPs that will be fused; the others are left out.

    Args:
        mlps: All of the model's.
        ratio: k / I, above 0 and up to 1. Without `ratio` and `width`: `DEFAULT_RATIO`.
        width: k itself, instead of `ratio`.
        layers: Such as `4-11` or `0,2,5-7`, from 0 and with both ends; None for all.

    Raises:
        InputError: Ratio and width are both given, or out of range.
        ModelError: A width above the model's own, or layers that it does not have.
    """
    count = 1 + max(mlp.layer for mlp in mlps)
    chosen = range(count) if layers is None else parse_layers(layers, count)
    return tuple(plan_layer(m, _width(m, ratio, width)) for m in mlps if m.layer in chosen)


def plan_layer(mlp: MLP, width: int) -> LayerPlan:
    """Plan one MLP at a width that is known: k, from 1 to I."""
    return LayerPlan(
        layer=mlp.layer,
        expert=mlp.expert,
        name=mlp.name,
        width_before=mlp.width,
        width_after=width,
        parameters_before=parameter_count(mlp, mlp.width),
        parameters_after=parameter_count(mlp, width),
    )


def nearest_width(mlp: MLP, width: float) -> int:
    """The width nearest to `width` that suits an MLP; 0 only where `width` rounds to 0."""
    steps = max(round(width / mlp.width_step), min(1, round(width)))
    return min(mlp.width, steps * mlp.width_step)


def parameter_count(mlp: MLP, width: int) -> int:
    """Elements of an MLP's matrices and biases, were it `width` wide."""
    p, layout = mlp.hidden_size, mlp.layout
    matrices = (layout.up, layout.gate, layout.down)
    biases = (layout.up_bias, layout.gate_bias)
    of_a_neuron = p * (3 - matrices.count(None)) + 2 - biases.count(None)
    return width * of_a_neuron + (0 if layout.bias is None else p)


def parse_layers(text: str, count: int) -> tuple[int, ...]:
    """The layers that `text` names, ascending, of a model that has `count`.

    Raises:
        InputError: `text` is not of the form `4-11` or `0,2,5-7`.
        ModelError: The model has no such layer.
    """
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise InputError(f"{text!r} names no layers", "Write --layers 4-11 or --layers 0,2,5-7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(
                f"{part.strip()!r} runs backwards", f"Write --layers {last}-{first} instead"
            )
        if last >= count:
            raise ModelError(
                f"There is no layer {last}: the model's MLP layers are 0 to {count - 1}"
                if count > 1
                else f"There is no layer {last}: the model has one MLP, layer 0",
                f"Write --layers 0-{count - 1}, or leave --layers out for all",
            )
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def _width(mlp: MLP, ratio: float | None, width: int | None) -> int:
    if ratio is not None and width is not None:
        raise InputError(
            "--ratio and --width say the same thing twice", "Give one of them and leave the other"
        )
    if width is None:
        ratio = DEFAULT_RATIO if ratio is None else ratio
        if not 0 < ratio <= 1:
            raise InputError(
                f"A ratio of {ratio:g} is not above 0 and up to 1",
                "Give the part of the width to keep, such as --ratio 0.25",
            )
        width = nearest_width(mlp, mlp.width * ratio)
        if width == 0:
            raise InputError(
                f"A ratio of {ratio:g} leaves nothing of the {mlp.width} neurons of {mlp.name}",
                "Give a larger --ratio, or a --width of 1 or more",
            )
        return width
    if width < 1:
        raise InputError(f"A width of {width} leaves no MLP", "Give a --width of 1 or more")
    if width > mlp.width:
        raise ModelError(
            f"A width of {width} is above the model's own, {mlp.width}",
            f"Give a --width of 1 to {mlp.width}",
        )
    if width % mlp.width_step and width != mlp.width:
        raise ModelError(
            f"A width of {width} does not suit {mlp.name}, whose experts lie in one stack",
            f"Give a multiple of {mlp.width_step}, or a --ratio",
        )
    return width
