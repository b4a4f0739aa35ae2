"""Mixtures of experts in a form that a graph can hold."""

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from edgefuse.layers.fused import p_of_stack

_NAME = "edgefuse_every_expert"


def every_expert_by_name() -> str:
    """What transformers is to be given as `experts_implementation`: it is told of it here."""
    ALL_EXPERTS_FUNCTIONS.register(_NAME, every_expert)
    return _NAME


def every_expert(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Compute every expert for every token, and add up what the router asks for.

    No shape depends on the routing, so the whole is a graph of matrix products; it takes E / k
    times the multiplications of the k experts that a token is sent to. What comes out is the same
    and so is every gradient: an expert that is not asked for has the weight 0.

    Args:
        experts: A module of transformers under `use_experts_implementation`; a fused one has P
            beside W2 (`edgefuse.layers.fused.put_beside`).
        hidden_states: (n, p).
        top_k_index: The experts of each token (n, k).
        top_k_weights: Their weights (n, k).

    Returns:
        (n, p).
    """

    def product(inputs: Tensor, name: str) -> Tensor:
        """Of inputs (n, a) or (E, n, a) and a stack (E, b, a)."""
        stack = getattr(experts, name)
        output = torch.matmul(inputs, stack if experts.is_transposed else stack.transpose(1, 2))
        return (
            output + getattr(experts, f"{name}_bias").unsqueeze(1) if experts.has_bias else output
        )

    if experts.has_gate:
        hidden = experts._apply_gate(product(hidden_states, "gate_up_proj"))  # noqa: SLF001
    else:
        hidden = experts.act_fn(product(hidden_states, "up_proj"))
    multiplicity = getattr(experts, p_of_stack("down_proj"), None)
    if multiplicity is not None:
        hidden = hidden * multiplicity
    output = product(hidden, "down_proj")
    if experts.has_post_expert_norm:
        output = experts.post_expert_norm(output)
    weights = top_k_weights.new_zeros(hidden_states.shape[0], experts.num_experts)
    weights = weights.scatter(1, top_k_index, top_k_weights)
    return (output * weights.T.unsqueeze(-1)).sum(dim=0)
