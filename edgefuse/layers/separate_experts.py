"""Experts that are a module each, where transformers has them in one stack."""

from collections.abc import Callable
from typing import Any, Self

from torch import Tensor, nn

from edgefuse.layers.experts import DOWN, FusedExperts
from edgefuse.layers.fused import FusedLinear
from edgefuse.layers.plain import linear_of


class Expert(nn.Module):
    """An expert with layers of its own, which have the names that its stack's tensors had."""

    gate_up_proj: nn.Linear
    up_proj: nn.Linear

    def __init__(
        self, up: nn.Linear, down: nn.Linear, act_fn: Callable[[Tensor], Tensor], *, gated: bool
    ) -> None:
        """Make it from its layers; `up` is gate and up in one where it is gated."""
        super().__init__()
        self.add_module("gate_up_proj" if gated else "up_proj", up)
        self.down_proj = down
        self.act_fn = act_fn
        self.gated = gated

    def forward(self, inputs: Tensor) -> Tensor:
        """Map tokens (n, p) to (n, p)."""
        if self.gated:
            gate, up = self.gate_up_proj(inputs).chunk(2, dim=-1)
            hidden = self.act_fn(gate) * up
        else:
            hidden = self.act_fn(self.up_proj(inputs))
        output: Tensor = self.down_proj(hidden)
        return output


class Experts(nn.ModuleList):
    """The experts of a layer, called as transformers calls a stack of them.

    There is no way back to the stack.
    """

    @classmethod
    def from_plain(cls, stack: nn.Module) -> Self:
        """Take a stack apart, plain or fused, whose tensors it shares; P goes with each expert."""
        gated = hasattr(stack, "gate_up_proj")
        up = stack.get_parameter("gate_up_proj" if gated else "up_proj").detach()
        down = stack.get_parameter(DOWN).detach()
        act_fn: Any = stack.act_fn
        experts = []
        for index in range(len(down)):
            layer = linear_of(down[index], None)
            if isinstance(stack, FusedExperts):
                layer = FusedLinear.from_plain(layer, stack.multiplicity[index])
            experts.append(Expert(linear_of(up[index], None), layer, act_fn, gated=gated))
        return cls(experts)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Compute every expert for every token, as `edgefuse.layers.experts.every_expert` does.

        Args:
            hidden_states: Tokens (n, p).
            top_k_index: Experts of each token (n, k).
            top_k_weights: Weights of those experts (n, k).
        """
        total = hidden_states.new_zeros(())
        for index, expert in enumerate(self):
            weight = (top_k_weights * (top_k_index == index)).sum(dim=-1, keepdim=True)
            total = total + weight * expert(hidden_states)
        return total
