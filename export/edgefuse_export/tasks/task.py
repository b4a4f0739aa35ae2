"""The task seam: what a model is trained for, on the workstation's side."""

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from transformers import PretrainedConfig

from edgefuse_runtime.tasks.task import Task


class ExportTask(Protocol):
    """How a model is traced for a task.

    Attributes:
        inputs: Names of the batch's tensors that inference takes.
        targets: Names of the batch's tensors that only the loss takes.
        outputs: Names of what inference gives.
        peft_type: Task type of peft.
        training_api_loss: Name of the loss of onnxruntime-training's artifacts that computes this
            task's; None where it has none.
    """

    inputs: ClassVar[tuple[str, ...]]
    targets: ClassVar[tuple[str, ...]]
    outputs: ClassVar[tuple[str, ...]]
    peft_type: ClassVar[str]
    training_api_loss: ClassVar[str | None]

    @property
    def task(self) -> Task:
        """The same task on the board's side."""
        ...

    def model_class(self) -> type[Any]:
        """The auto class of transformers that has the task's head."""
        ...

    def model_options(self) -> dict[str, Any]:
        """Options for `from_pretrained` of that class: what the head has to be."""
        ...

    def loss(self, model: nn.Module) -> nn.Module:
        """The module to trace.

        Its `forward` maps the inputs and the targets, by position and under their names, to the
        loss, a scalar, and the outputs, detached.
        """
        ...

    def example(
        self, shape: tuple[int, int], *, vocabulary: int, seed: int = 0
    ) -> tuple[Tensor, ...]:
        """Random inputs and targets, the last row half padding.

        Args:
            shape: (batch, sequence).
            vocabulary: Token ids are below it.
            seed: Seed of the numbers.
        """
        ...


class WantedTask(Protocol):
    """A task as a user asks for it, before the model is known."""

    def of_model(self, config: PretrainedConfig, name: str) -> ExportTask:
        """The task as a model's own head has it, or as a new head shall have it.

        Args:
            config: Configuration of the model.
            name: Name of the model, for messages.

        Raises:
            ModelError: The model cannot have such a head, or brings another one.
        """
        ...
