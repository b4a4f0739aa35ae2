"""How a step fits into memory: how many rows at once, and which layers' insides are kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse_devices.errors import RunError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.machine import memory
from edgefuse_runtime.optimizers.optimizer import state_elements
from edgefuse_runtime.training.course import why_not_in_parts

_MIB = 2**20

_FRAGMENTS = 1.25
"""What ONNX Runtime's arena takes of what lives in it: pieces that are free are never joined."""

_LONG_LIVED = 1.12
"""The same of layers' insides, which are taken and given back in one order: fewer pieces."""

_HEEDED = 0.96
"""How much of a budget layers' insides may fill: a prediction may be that much too low."""

_SHARE_OF_BOARD, _SHARE_OF_FREE = 0.5, 0.9

_SESSIONS = 24 * _MIB
"""Graphs, their threads and their bindings."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is decided for a run.

    Attributes:
        rows_at_once: Rows whose gradients are computed at once.
        kept_layers: Layers, from the last one down, whose insides are kept for the backward pass.
        bytes: What the process is expected to hold at the most, mapped files not counted.
    """

    rows_at_once: int
    kept_layers: int
    bytes: int


def usual_budget(device: DeviceProfile, *, held: int) -> int:
    """Bytes that training may hold without being told: half of the board's memory, if it is free.

    Args:
        device: The board.
        held: Bytes that the process holds already.
    """
    of_machine = held + int(_SHARE_OF_FREE * memory.free())
    return min(int(_SHARE_OF_BOARD * device.memory_mib * _MIB), of_machine)


def plan_memory(
    bundle: Bundle,
    dataset: Dataset,
    *,
    batch_size: int,
    in_parts: bool,
    budget: int,
    held: int,
    refuse: bool = True,
) -> MemoryPlan:
    """Choose the most rows at once that a budget holds, and the layers to keep with what is left.

    Args:
        bundle: An opened bundle.
        dataset: What is trained on: its longest row decides.
        batch_size: Rows in a batch.
        in_parts: Whether a step has several batches anyway.
        budget: Bytes that the process may hold, mapped files not counted.
        held: Bytes that it holds already.
        refuse: Whether to refuse what does not fit, and not to try the least.

    Raises:
        RunError: The fewest rows that can be computed at once do not fit; the message says what
            would.
    """
    manifest = bundle.manifest
    tokens, shapes = int(dataset.lengths.max()), _trained(bundle, dataset)
    # At an epoch's end, embeddings of which some rows train are made whole to be kept.
    pairs = zip(shapes, bundle.manifest.parameters, strict=True)
    made_whole = 4 * sum(math.prod(p.shape) for shape, p in pairs if shape != p.shape)
    least = batch_size if why_not_in_parts(bundle, dataset) else 1
    for rows in range(batch_size, least - 1, -1):
        whole = held + _buffers(shapes, bundle, in_parts=in_parts or rows < batch_size) + _SESSIONS
        whole += made_whole
        whole += int(_FRAGMENTS * manifest.footprint.at(rows, tokens))
        if whole <= budget or rows == least:
            break
    if whole > budget and refuse:
        raise RunError(
            f"{'a row' if rows == 1 else f'a batch of {rows} rows'} of {tokens} tokens takes about "
            f"{whole / _MIB:,.0f} MiB, and {budget / _MIB:,.0f} MiB may be used",
            f"Give --memory {_up(whole)}MiB if the machine has it, export with a shorter "
            "--sequence-length, or train less of the model",
        )
    left = max(0, _HEEDED * budget - whole) / _LONG_LIVED
    kept, spent = manifest.engine.layers_kept(left, rows=rows, tokens=tokens)
    return MemoryPlan(rows, kept, whole + int(_LONG_LIVED * spent))


def _trained(bundle: Bundle, dataset: Dataset) -> list[list[int]]:
    """Shapes of what trains: of embeddings, perhaps the rows alone whose tokens occur."""
    manifest, seen = bundle.manifest, len(dataset.token_ids) + 1  # and the padding
    frees = manifest.engine.frees_rows
    return [
        [min(seen, p.shape[0]), *p.shape[1:]] if frees and p.free_rows else p.shape
        for p in manifest.parameters
    ]


def _buffers(shapes: Sequence[Sequence[int]], bundle: Bundle, *, in_parts: bool) -> int:
    """Bytes of values, gradients and the optimizer's states of what trains."""
    trained = sum(map(math.prod, shapes))
    states = state_elements(bundle.manifest.optimizer, shapes)
    return 4 * (trained * (3 if in_parts else 2) + states)


def _up(size: int) -> int:
    """Whole tens of MiB that are no less."""
    return -(-size // (10 * _MIB)) * 10
