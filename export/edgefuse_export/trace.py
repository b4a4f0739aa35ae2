"""The forward pass as a graph whose batch and sequence are free."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, _trace

from edgefuse_devices.errors import ModelError
from edgefuse_export.operators.dropout import Dropout, check_dropout, with_dropout
from edgefuse_export.operators.rms_norm import join_norms
from edgefuse_export.operators.silu import keep_silu
from edgefuse_export.passes.first_token import compute_only_read_tokens
from edgefuse_export.passes.scaled_query import scale_query_instead_of_scores
from edgefuse_export.passes.spelled_out import spell_out
from edgefuse_export.places import listed, places_of
from edgefuse_export.silence import silence
from edgefuse_export.tasks.task import ExportTask

_trace.print = lambda *_, **__: None  # type: ignore[attr-defined]
"""torch prints the half of a graph that it has made, where it stops."""

TRACED_SHAPE = (3, 11)
"""(batch, sequence) of the example that is traced."""

OTHER_SHAPE = (5, 17)


def example(
    task: ExportTask, shape: tuple[int, int], *, vocabulary: int, seed: int = 0
) -> dict[str, Tensor]:
    """A batch of random rows, the last one half padding, in the order of the loss module.

    Args:
        task: The task.
        shape: (rows, tokens).
        vocabulary: Token ids are below it.
        seed: Seed of the numbers.
    """
    rng = np.random.default_rng(seed)
    feeds = task.task.random_feeds(rng, shape, np.arange(vocabulary), padded=True)
    return {name: torch.from_numpy(feeds[name]) for name in (*task.inputs, *task.targets)}


def batch_shapes(
    task: ExportTask, rows: int, tokens: int, *, vocabulary: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of a batch's tensors by name.

    Args:
        task: The task.
        rows: Count of rows.
        tokens: Count of tokens in each.
        vocabulary: Token ids are below it.
    """
    batch = example(task, (rows, tokens), vocabulary=vocabulary)
    return {name: tuple(tensor.shape) for name, tensor in batch.items()}


def trace(
    task: ExportTask, model: nn.Module, *, vocabulary: int, dropout: Dropout | None = None
) -> ExportedProgram:
    """Trace a task's loss, and leave out of it what nobody reads.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode, so that dropout is off.
        vocabulary: Token ids of the example are below it.
        dropout: How to drop; the program takes a key after the batch then. None drops nothing.

    Returns:
        The forward pass in ATen operators. Names of parameters and buffers are those of the loss
        module.

    Raises:
        ModelError: What the model computes depends on the numbers it is given, not on their shapes
            alone, or it does not take the task's inputs.
    """
    batch, other = (
        tuple(example(task, shape, vocabulary=vocabulary).values())
        for shape in (TRACED_SHAPE, OTHER_SHAPE)
    )
    loss = task.loss(model)
    if not dropout:
        return trace_module(loss, batch, other, model=model)
    key = torch.zeros(2, dtype=torch.int64)
    dropping = with_dropout(loss, dropout)
    program = trace_module(dropping, (*batch, key), (*other, key), model=model)
    check_dropout(program, type(model).__name__)
    return program


def trace_module(
    module: nn.Module, batch: Sequence[Tensor], other: Sequence[Tensor], *, model: nn.Module
) -> ExportedProgram:
    """Trace a module, and leave out of it what nobody reads.

    Args:
        module: The module: tensors → a scalar first, and other tensors.
        batch: Arguments of the module.
        other: Arguments of other sizes: the dimensions that differ are free.
        model: The model that it is of, for messages.

    Raises:
        ModelError: What it computes depends on the numbers it is given, not on their shapes alone.
    """
    free = signature(module.forward).bind(*map(_free_dimensions, batch, other)).arguments
    try:
        with silence("torch", "transformers"):
            program = torch.export.export(module, tuple(batch), dynamic_shapes=free)
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        places = places_of(error, model)
        raise ModelError(
            f"{type(model).__name__} cannot be traced: {reason}"
            + (f" (in {listed(places)})" if places else ""),
            "Use an encoder such as BERT, a decoder such as Llama, or both such as T5",
        ) from error
    compute_only_read_tokens(program.graph_module)
    scale_query_instead_of_scores(program.graph_module)
    spell_out(program.graph_module)
    join_norms(program.graph_module)
    keep_silu(program.graph_module)
    return program


def _free_dimensions(one: Tensor, other: Tensor) -> dict[int, Any]:
    """Dimensions that follow rows and tokens: they differ between two shapes of a batch."""
    sizes = zip(one.shape, other.shape, strict=True)
    return {index: Dim.DYNAMIC for index, (a, b) in enumerate(sizes) if a != b}
