"""The forward pass as a graph whose batch and sequence are free."""

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from edgefuse_export.first_token import compute_only_read_tokens
from edgefuse_export.scaled_query import scale_query_instead_of_scores

TRACED_SHAPE = (3, 11)
"""(batch, sequence) of the example that is traced."""


def trace(module: nn.Module, *, vocabulary: int, labels: int | None) -> ExportedProgram:
    """Trace a `Logits` or `Loss`, and leave out of it what nobody reads.

    Args:
        module: In evaluation mode, so that dropout is off.
        vocabulary: Token ids of the example are below it.
        labels: Count of classes for a `Loss`, None for `Logits`.

    Returns:
        The forward pass in ATen operators. Names of parameters and buffers are the module's.
    """
    inputs = example(TRACED_SHAPE, vocabulary=vocabulary, labels=labels)
    rows, tokens = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    free = (tokens, tokens, rows)[: len(inputs)]
    graph_module = torch.export.export(module, inputs, dynamic_shapes=free).module()
    assert isinstance(graph_module, fx.GraphModule)
    compute_only_read_tokens(graph_module)
    scale_query_instead_of_scores(graph_module)
    return torch.export.export(graph_module, inputs, dynamic_shapes=free)


def example(
    shape: tuple[int, int], *, vocabulary: int, labels: int | None, seed: int = 0
) -> tuple[Tensor, ...]:
    """Random token ids, a mask whose last row is half padding, and labels where wanted.

    Returns:
        int64 tensors: (batch, sequence), (batch, sequence) and (batch,).
    """
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(vocabulary, shape, generator=generator)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[-1, shape[1] // 2 :] = 0
    if labels is None:
        return input_ids, attention_mask
    return input_ids, attention_mask, torch.randint(labels, shape[:1], generator=generator)
