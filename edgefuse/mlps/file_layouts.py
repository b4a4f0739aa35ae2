"""Find MLPs in a model's files, which may split and name tensors otherwise than the model."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from edgefuse.mlps.layout import Layout, Slot
from edgefuse.mlps.mlp import MLP
from edgefuse_devices.errors import ModelError


def stored_layouts(mlps: Sequence[MLP], names: Collection[str]) -> list[Layout]:
    """Make layouts by which MLPs are read from a model's files and written, without the model.

    Args:
        mlps: All MLPs of a transformers model, whose weights may be on the meta device.
        names: Names of all tensors in its files.

    Returns:
        A layout for each MLP: its own where the files have the model's names, and one by
        transformers' conversions where they do not (Mixtral's files hold `w1`, `w2`, `w3` of each
        expert).

    Raises:
        ModelError: The files lack a tensor.
    """
    model = mlps[0].model
    assert isinstance(model, PreTrainedModel)
    slots = sorted(
        {slot for mlp in mlps for slot in mlp.layout.slots().values() if slot.name not in names},
        key=lambda slot: (slot.name, slot.expert or 0, slot.half or 0),
    )
    homes = _homes(model, slots, names)
    return [
        replace(
            mlp.layout,
            **{role: homes.get(slot, slot) for role, slot in mlp.layout.slots().items()},
        )
        for mlp in mlps
    ]


def _homes(
    model: PreTrainedModel, slots: Sequence[Slot], names: Collection[str]
) -> dict[Slot, Slot]:
    """Follow numbers in place of weights, one a slot, through the conversion of a model's save."""
    probes: dict[str, Tensor] = {}
    for name in dict.fromkeys(slot.name for slot in slots):
        here = [number for number, slot in enumerate(slots) if slot.name == name]
        halves = 1 if slots[here[0]].half is None else 2
        stack = () if slots[here[0]].expert is None else (len(here) // halves,)
        probes[name] = torch.tensor(here).reshape(*stack, halves, 1)
    homes = {}
    for stored, numbers in revert_weight_conversion(model, probes).items():
        for number in numbers.unique().tolist():
            slot = slots[number]
            homes[slot] = replace(
                slot,
                name=_present(stored, model.base_model_prefix, names),
                expert=slot.expert if numbers.ndim == 3 else None,
                half=slot.half if numbers.shape[-2] > 1 else None,
            )
    return homes


def _present(name: str, prefix: str, names: Collection[str]) -> str:
    """Find the name that the files have: with the prefix of the model under a head, or without."""
    for candidate in (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}.")):
        if candidate in names:
            return candidate
    raise ModelError(
        f"The model's files lack the tensor {name}", "Download or save the model again"
    )
