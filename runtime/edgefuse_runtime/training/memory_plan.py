"""How a step fits into memory: how many rows at once, and which layers' insides are kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgefuse_devices.errors import RunError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset, order_bytes
from edgefuse_runtime.engines.engine import EngineSpec
from edgefuse_runtime.graph.footprint import Footprint
from edgefuse_runtime.machine import memory
from edgefuse_runtime.optimizers.optimizer import Optimizer, state_elements
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


LIBRARIES = 38 * _MIB
"""What Python, its libraries, a tokenizer and short rows hold before training, as benchmarks'
memory_prediction.py has it for MiniLM: more with a larger vocabulary."""


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


@dataclass(frozen=True)
class Needs:
    """What decides how much memory training takes, besides the sizes of its batches.

    Attributes:
        engine: The engine.
        optimizer: The optimizer.
        footprint: What a step holds besides tensors and gradients.
        shapes: Shapes of the tensors that train.
        beside: Bytes that are held at times besides all this.
    """

    engine: EngineSpec
    optimizer: Optimizer
    footprint: Footprint
    shapes: Sequence[Sequence[int]]
    beside: int = 0

    def least(self, rows: int, tokens: int, *, in_parts: bool) -> int:
        """Bytes that a step of rows takes of which no layer's insides are kept.

        Args:
            rows: Rows whose gradients are computed at once.
            tokens: Tokens in the longest of them.
            in_parts: Whether a step has several batches, whose gradients are summed.
        """
        trained = sum(map(math.prod, self.shapes))
        values = trained * (3 if in_parts else 2) + state_elements(self.optimizer, self.shapes)
        step = int(_FRAGMENTS * self.footprint.at(rows, tokens))
        return 4 * values + self.beside + _SESSIONS + step

    def filled(self, least: int, rows: int, tokens: int, *, budget: int) -> MemoryPlan:
        """Keep the insides of as many layers as a budget has room for.

        Args:
            least: Bytes that the process holds where none are kept.
            rows: Rows whose gradients are computed at once.
            tokens: Tokens in the longest of them.
            budget: Bytes that it may hold.
        """
        left = max(0, _HEEDED * budget - least) / _LONG_LIVED
        kept, spent = self.engine.layers_kept(left, rows=rows, tokens=tokens)
        return MemoryPlan(rows, kept, least + int(_LONG_LIVED * spent))


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
    tokens, needs = int(dataset.lengths.max()), _needs(bundle, dataset, batch_size)
    fewest = batch_size if why_not_in_parts(bundle, dataset) else 1
    for rows in range(batch_size, fewest - 1, -1):
        least = held + needs.least(rows, tokens, in_parts=in_parts or rows < batch_size)
        if least <= budget or rows == fewest:
            break
    if least > budget and refuse:
        raise RunError(
            f"{'a row' if rows == 1 else f'a batch of {rows} rows'} of {tokens} tokens takes about "
            f"{least / _MIB:,.0f} MiB, and {budget / _MIB:,.0f} MiB may be used",
            f"Give --memory {_up(least)}MiB if the machine has it, export with a shorter "
            "--sequence-length, or train less of the model",
        )
    return needs.filled(least, rows, tokens, budget=budget)


def _needs(bundle: Bundle, dataset: Dataset, batch_size: int) -> Needs:
    """Those of a bundle: of embeddings, perhaps the rows alone train whose tokens occur."""
    manifest, seen = bundle.manifest, len(dataset.token_ids) + 1  # and the padding
    frees = manifest.engine.frees_rows
    shapes = [
        [min(seen, p.shape[0]), *p.shape[1:]] if frees and p.free_rows else p.shape
        for p in manifest.parameters
    ]
    # At an epoch's end, embeddings of which some rows train are made whole to be kept.
    pairs = zip(shapes, manifest.parameters, strict=True)
    made_whole = 4 * sum(math.prod(p.shape) for shape, p in pairs if shape != p.shape)
    beside = made_whole + order_bytes(len(dataset), batch_size)
    return Needs(manifest.engine, manifest.optimizer, manifest.footprint, shapes, beside)


def _up(size: int) -> int:
    """Whole tens of MiB that are no less."""
    return -(-size // (10 * _MIB)) * 10
