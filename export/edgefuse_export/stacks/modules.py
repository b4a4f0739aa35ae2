"""The three parts of a model around its stack, as modules that are traced alone.

Each gives a scalar first, by which it is differentiated: Σ output · gradient, whose derivative by
anything is what the output's gradient makes of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgefuse_export.stacks.calls import Call, Stack, enter, leave


class EntrancePart(nn.Module):
    """What is before the stack: batch → (a scalar, the first layer's input, what layers share).

    Attributes:
        model: The model.
    """

    def __init__(
        self, loss: nn.Module, stack: Stack, *, batch: int, gradients: Sequence[int]
    ) -> None:
        """Take it from a task's loss.

        Args:
            loss: The loss module of a task.
            stack: The stack.
            batch: Count of the batch's tensors; gradients of outputs follow them.
            gradients: Indices of the outputs that have one.
        """
        super().__init__()
        self.model = loss.model
        # In a tuple, so that their tensors keep the model's names:
        self._run = (loss, stack)
        self._batch, self._gradients = batch, list(gradients)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map the batch, and the gradients of some outputs."""
        loss, stack = self._run
        entrance = enter(loss, stack, tensors[: self._batch])
        # Copies: what is given as it came would be no output of a graph.
        outputs = [entrance.hidden, *(context.clone() for context in entrance.contexts)]
        scalar = torch.zeros(())
        for index, gradient in zip(self._gradients, tensors[self._batch :], strict=True):
            scalar = scalar + (outputs[index] * gradient).sum()
        return scalar, *(output.detach() for output in outputs)


class LayerPart(nn.Module):
    """A layer: (input, contexts, gradient of the output) → (a scalar, output).

    Attributes:
        model: The layer.
    """

    def __init__(self, layer: nn.Module, call: Call) -> None:
        """Take a layer and how it is called."""
        super().__init__()
        self.model = layer
        self._call = call

    def forward(self, hidden: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Map input, (batch, sequence, hidden), contexts, and the gradient of the output."""
        *contexts, gradient = tensors
        output = self._call.of(self.model, hidden, contexts)
        return (output * gradient).sum(), output.detach()


class ExitPart(nn.Module):
    """What is behind the stack: (the last layer's output, batch) → what the loss module gives.

    Attributes:
        model: The model.
    """

    def __init__(self, loss: nn.Module, stack: Stack) -> None:
        """Take it from a task's loss.

        Args:
            loss: The loss module of a task.
            stack: The stack.
        """
        super().__init__()
        self.model = loss.model
        self._run = (loss, stack)

    def forward(self, hidden: Tensor, *batch: Tensor) -> tuple[Tensor, ...]:
        """Map the last layer's output, (batch, sequence, hidden), and the batch."""
        loss, stack = self._run
        found: tuple[Tensor, ...] = leave(loss, stack, hidden, batch)
        return found


class TokensPart(nn.Module):
    """What is behind the stack, for tokens that know nothing of each other.

    (their last hidden states, targets, count of all that are learned) → their part of the loss.

    Attributes:
        model: The model.
    """

    def __init__(self, loss: nn.Module, stack: Stack) -> None:
        """Take it from a task's loss of tokens.

        Args:
            loss: A loss module whose `tokens` maps logits and targets to the loss of each token.
            stack: The stack.
        """
        super().__init__()
        self.model = loss.model
        self._run = (loss, stack)

    def forward(self, hidden: Tensor, targets: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        """Map hidden states (tokens, hidden), targets (tokens,), and a float32 scalar."""
        loss, stack = self._run
        losses = leave(loss, stack, hidden.unsqueeze(0), (targets.unsqueeze(0),))
        return ((losses / count).sum(),)
