"""The forward pass as a graph whose batch and sequence are free."""

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from edgefuse_devices.errors import ModelError
from edgefuse_export.module import Loss
from edgefuse_export.passes.first_token import compute_only_read_tokens
from edgefuse_export.passes.scaled_query import scale_query_instead_of_scores

TRACED_SHAPE = (3, 11)
"""(batch, sequence) of the example that is traced."""


def trace(module: Loss, *, vocabulary: int, labels: int) -> ExportedProgram:
    """Trace a loss, and leave out of it what nobody reads.

    Args:
        module: In evaluation mode, so that dropout is off.
        vocabulary: Token ids of the example are below it.
        labels: Count of classes.

    Returns:
        The forward pass in ATen operators. Names of parameters and buffers are the module's.

    Raises:
        ModelError: What the model computes depends on the numbers it is given, not on their shapes
            alone, or it does not take token ids and a mask.
    """
    inputs = example(TRACED_SHAPE, vocabulary=vocabulary, labels=labels)
    rows, tokens = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    try:
        program = torch.export.export(module, inputs, dynamic_shapes=(tokens, tokens, rows))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{type(module.model).__name__} cannot be traced: {reason}",
            "Use an encoder such as BERT or ModernBERT, or a decoder such as Llama or GPT-2",
        ) from error
    compute_only_read_tokens(program.graph_module)
    scale_query_instead_of_scores(program.graph_module)
    return program


def example(
    shape: tuple[int, int], *, vocabulary: int, labels: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random token ids, a mask whose last row is half padding, and labels.

    Returns:
        int64 tensors: (batch, sequence), (batch, sequence) and (batch,).
    """
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(vocabulary, shape, generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[-1, shape[1] // 2 :] = 0
    return input_ids, attention_mask, torch.randint(labels, shape[:1], generator=generator)
