"""The mixtures of experts of Switch Transformers in a form that a graph can hold.

In transformers an expert computes the tokens that were sent to it: shapes depend on the routing.
Here every expert computes every token, and the router's choice is a factor. What comes out is the
same and so is every gradient. The router there also casts its own weights at each call, which no
trace can take; here they are cast once, with the model.

Fedus, Zoph, Shazeer, "Switch Transformers", JMLR 2022, arXiv 2101.03961.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersExperts,
    SwitchTransformersTop1Router,
)


class Router(SwitchTransformersTop1Router):
    """The router of a layer, without noise."""

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose an expert for each token.

        Args:
            hidden_states: Tokens (batch, sequence, p).

        Returns:
            One-hot choices (batch, sequence, E), all zero where an expert was sent more tokens of a
            row than it takes; probabilities of the choices (batch, sequence, 1); and the logits.
        """
        logits: Tensor = self.classifier(hidden_states)
        probabilities = F.softmax(logits, dim=-1)
        chosen = F.one_hot(probabilities.argmax(dim=-1), num_classes=self.num_experts)
        probability = (probabilities * chosen).sum(dim=-1, keepdim=True)
        taken = chosen * (chosen.cumsum(dim=-2) <= self.expert_capacity)
        return taken, probability, logits


class EveryExpert(SwitchTransformersExperts):
    """The experts of a layer, all of which compute every token."""

    def forward(
        self, hidden_states: Tensor, selected_experts: Tensor, routing_weights: Tensor
    ) -> Tensor:
        """Add up what the router asks for.

        Args:
            hidden_states: Tokens (n, p).
            selected_experts: One-hot choices (n, 1, E).
            routing_weights: Probabilities of the choices (n, 1).

        Returns:
            Outputs (n, p).
        """
        total = hidden_states.new_zeros(())
        weights = routing_weights * selected_experts.squeeze(1)
        for index, expert in enumerate(self.values()):
            total = total + weights[:, index, None] * expert(hidden_states)
        return total


_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    SwitchTransformersTop1Router: Router,
    SwitchTransformersExperts: EveryExpert,
}


def compute_every_expert(model: nn.Module) -> None:
    """Let all experts of a Switch Transformer compute every token, in place."""
    for module in model.modules():
        if form := _FORMS.get(type(module)):
            module.__class__ = form
