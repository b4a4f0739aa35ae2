"""Describe as data where an MLP's matrices lie in a state dict; read and write them by it.

Models store the same neurons in many ways: a projection each, gate and up in one matrix, all
experts in one stack, transposed. A `Layout` describes how, so that one pair of functions reads and
writes them all, from a loaded model or straight from a file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from edgefuse.hub.finite import check_finite
from edgefuse.mlps.neurons import FusedNeurons, Neurons


@dataclass(frozen=True)
class Slot:
    """Place of one matrix (out, in) or bias (out,).

    Attributes:
        name: Name of the tensor in the state dict of the plain (folded) model.
        transposed: It is stored as (in, out), as GPT-2's Conv1D does.
        expert: Index in the first axis of a stack of experts; None for no stack.
        half: 0 or 1 of the output axis, where gate and up are one matrix; None for all of it.
    """

    name: str
    transposed: bool = False
    expert: int | None = None
    half: int | None = None

    def read(self, get: Callable[[str], Tensor]) -> Tensor:
        """Read the matrix (out, in) or bias (out,), detached, contiguous, float32."""
        tensor = get(self.name).detach()
        if self.expert is not None:
            tensor = tensor[self.expert]
        if self.transposed:
            tensor = tensor.T
        if self.half is not None:
            tensor = tensor.chunk(2)[self.half]
        return tensor.float().contiguous()


@dataclass(frozen=True)
class Layout:
    """Places of an MLP's tensors; None for those that the architecture lacks.

    Attributes:
        up: Place of W1 (I, p).
        down: Place of W2 (p, I).
        up_bias: Place of b1 (I,).
        gate: Place of the gate's matrix (I, p).
        gate_bias: Place of the gate's bias (I,).
        bias: Place of b2 (p,).
    """

    up: Slot
    down: Slot
    up_bias: Slot | None = None
    gate: Slot | None = None
    gate_bias: Slot | None = None
    bias: Slot | None = None

    def slots(self) -> dict[str, Slot]:
        """List the places that there are, by role."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {role: slot for role, slot in found if slot is not None}


def read_neurons(
    layout: Layout, get: Callable[[str], Tensor], name: str = "An MLP"
) -> tuple[Neurons, Tensor | None]:
    """Read an MLP.

    Args:
        layout: Where it lies.
        get: Function from a tensor's name to the tensor, of any float type, of a state dict or of
            a file.
        name: Name of the MLP in messages.

    Returns:
        Its neurons and b2 (p,), or None where it has none; detached, contiguous, float32.

    Raises:
        ModelError: A weight is NaN or infinite.
    """
    tensors = {role: slot.read(get) for role, slot in layout.slots().items()}
    for role, tensor in tensors.items():
        check_finite(tensor, name, layout.slots()[role].name)
    bias = tensors.pop("bias", None)
    return Neurons(**tensors), bias


def write_neurons(
    layouts: Sequence[Layout], fused: Sequence[FusedNeurons], *, folded: bool
) -> dict[str, Tensor]:
    """Make the tensors that hold fused neurons: the inverse of `read_neurons`.

    Args:
        layouts: Layouts of MLPs; of a stack of experts all, since they are one tensor.
        fused: Neurons for each one's place; the experts of a stack have one width.
        folded: Multiply P into `down`, as files have it; otherwise P is left out.

    Returns:
        Tensors by name, float32. Those that stay as they are (b2 without an `output_bias`) are not
        among them.
    """
    pieces: dict[str, dict[tuple[int, int], Tensor]] = {}
    for layout, one in zip(layouts, fused, strict=True):
        for role, tensor in _tensors(one, folded=folded).items():
            slot = layout.slots()[role]
            place = (slot.expert or 0, slot.half or 0)
            pieces.setdefault(slot.name, {})[place] = tensor
    slots = {slot.name: slot for layout in layouts for slot in layout.slots().values()}
    return {name: _join(slots[name], parts) for name, parts in pieces.items()}


def _tensors(fused: FusedNeurons, *, folded: bool) -> Mapping[str, Tensor]:
    neurons = fused.neurons
    if folded:
        neurons = replace(neurons, down=neurons.down * fused.multiplicity)
    tensors = {"bias": fused.output_bias, **vars(neurons)}
    return {role: tensor for role, tensor in tensors.items() if tensor is not None}


def _join(slot: Slot, parts: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Put the halves one under the other, transpose, and stack the experts."""
    experts = 1 + max(expert for expert, _ in parts)
    halves = 1 if slot.half is None else 2
    joined = [
        torch.cat([parts[expert, half] for half in range(halves)]) for expert in range(experts)
    ]
    if slot.transposed:
        joined = [matrix.T.contiguous() for matrix in joined]
    return joined[0] if slot.expert is None else torch.stack(joined)
