"""Stacks of experts: in a form that a graph can hold, and with the multiplicities P of fused ones.

A stack is a module of transformers under `use_experts_implementation`: all experts of a layer, each
matrix of all in one tensor.
"""

import copy
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

DOWN = "down_proj"
"""Attribute of a stack that holds all W2 (E, p, k)."""

_NAME = "edgefuse_every_expert"
_P = f"{DOWN}_multiplicity"


def every_expert_by_name() -> str:
    """Register `every_expert` in transformers, and name its `experts_implementation`."""
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
        experts: Stack of experts, plain or fused.
        hidden_states: Tokens (n, p).
        top_k_index: Experts of each token (n, k).
        top_k_weights: Weights of those experts (n, k).

    Returns:
        Outputs (n, p).
    """

    def product(inputs: Tensor, name: str) -> Tensor:
        """Multiply inputs (n, a) or (E, n, a) by a stack (E, b, a)."""
        stack = getattr(experts, name)
        output = torch.matmul(inputs, stack if experts.is_transposed else stack.transpose(1, 2))
        return (
            output + getattr(experts, f"{name}_bias").unsqueeze(1) if experts.has_bias else output
        )

    if experts.has_gate:
        hidden = experts._apply_gate(product(hidden_states, "gate_up_proj"))  # noqa: SLF001
    else:
        hidden = experts.act_fn(product(hidden_states, "up_proj"))
    if isinstance(experts, FusedExperts):
        hidden = hidden * experts.down_proj_multiplicity
    output = product(hidden, DOWN)
    if experts.has_post_expert_norm:
        output = experts.post_expert_norm(output)
    weights = top_k_weights.new_zeros(hidden_states.shape[0], experts.num_experts)
    weights = weights.scatter(1, top_k_index, top_k_weights)
    return (output * weights.T.unsqueeze(-1)).sum(dim=0)


class FusedExperts(nn.Module):
    """What makes a stack of experts a fused one: P beside W2, which trains.

    Every fused stack is of a class of its own, made of this one and the plain stack's.

    Attributes:
        plain_class: Class of the plain stack.
        down_proj: W2 (E, p, k) without P.
        down_proj_multiplicity: Buffer (E, 1, k): P, as it multiplies hidden values (E, n, k).
    """

    plain_class: ClassVar[type[nn.Module]]
    down_proj: nn.Parameter
    down_proj_multiplicity: Tensor

    @staticmethod
    def from_plain(stack: nn.Module, multiplicity: Tensor) -> "FusedExperts":
        """Put P (E, k) beside the W2 of a stack, whose tensors it shares."""
        fused = cast("FusedExperts", _copied(stack, _fused_class(type(stack))))  # type: ignore[arg-type]
        fused.register_buffer(_P, multiplicity.to(fused.down_proj).unsqueeze(1))
        return fused

    @property
    def multiplicity(self) -> Tensor:
        """P (E, k)."""
        return self.down_proj_multiplicity.squeeze(1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute what the plain stack does of its inputs; under `every_expert` P stays apart."""
        config = getattr(self, "config", None)
        if getattr(config, "_experts_implementation", None) == _NAME:
            return every_expert(self, *inputs)
        output: Tensor = self._with(self.plain_weight())(*inputs)
        return output

    def plain_weight(self) -> Tensor:
        """W2·diag(P) (E, p, k)."""
        return self.down_proj * self.down_proj_multiplicity

    def plain(self) -> nn.Module:
        """The stack with W2·diag(P)."""
        return self._with(nn.Parameter(self.plain_weight().detach()))

    def _with(self, down: Tensor) -> nn.Module:
        """The plain stack around the same tensors and another W2, which may have a gradient."""
        stack = _copied(self, self.plain_class)
        del stack._buffers[_P]  # noqa: SLF001
        del stack.down_proj
        setattr(stack, DOWN, down)
        return stack


@cache
def _fused_class(plain: type[nn.Module]) -> type[FusedExperts]:
    return type(f"Fused{plain.__name__}", (FusedExperts, plain), {"plain_class": plain})


def _copied(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """A copy of a module, of another class, around the same tensors, parts and configuration."""
    copied = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict | set):  # of parameters, buffers, parts and hooks
            copied.__dict__[name] = copy.copy(value)
    copied.__class__ = kind
    return copied
