"""What a compression would do to every layer, decided before anything is done."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse.compression.mlp import DenseMLP
from edgefuse_devices.errors import InputError, ModelError

DEFAULT_RATIO = 0.25


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one MLP block.

    Attributes:
        layer: Index from 0, bottom first.
        width_before: I.
        width_after: k; equal to I where the layer stays as it is.
        parameters_before: Elements of W1, b1, W2 and b2 (P is a constant, not counted).
        parameters_after: The same at width k.
    """

    layer: int
    width_before: int
    width_after: int
    parameters_before: int
    parameters_after: int


def plan_layers(
    blocks: Sequence[DenseMLP],
    *,
    ratio: float | None = None,
    width: int | None = None,
    layers: str | None = None,
) -> tuple[LayerPlan, ...]:
    """Plan the layers that will be fused; the others are left out.

    Args:
        blocks: The model's MLP blocks.
        ratio: k / I, above 0 and up to 1. Without `ratio` and `width`: `DEFAULT_RATIO`.
        width: k itself, instead of `ratio`.
        layers: Such as `4-11` or `0,2,5-7`, from 0 and with both ends; None for all.

    Raises:
        InputError: Both or neither of ratio and width make sense, or they are out of range.
        ModelError: A width above the model's own, or layers that it does not have.
    """
    chosen = range(len(blocks)) if layers is None else parse_layers(layers, len(blocks))
    return tuple(
        LayerPlan(
            layer=block.layer,
            width_before=block.width,
            width_after=(k := _width(block, ratio, width)),
            parameters_before=_parameters(block, block.width),
            parameters_after=_parameters(block, k),
        )
        for block in (blocks[index] for index in chosen)
    )


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


def _width(block: DenseMLP, ratio: float | None, width: int | None) -> int:
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
        return max(1, round(block.width * ratio))
    if width < 1:
        raise InputError(f"A width of {width} leaves no MLP", "Give a --width of 1 or more")
    if width > block.width:
        raise ModelError(
            f"A width of {width} is above the model's own, {block.width}",
            f"Give a --width of 1 to {block.width}",
        )
    return width


def _parameters(block: DenseMLP, width: int) -> int:
    p = block.hidden_size
    down_bias = 0 if block.down.bias is None else p
    return width * (2 * p + 1) + down_bias
