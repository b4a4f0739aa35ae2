"""The task seam: what a model is trained for, on the workstation's side.

A task's options are the fields of a frozen dataclass, of which `edgefuse export --help` makes
flags: torch and transformers are imported for types alone, and inside functions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from edgefuse_runtime.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


class ExportTask(Protocol):
    """How a model is traced for a task."""

    @property
    def task(self) -> Task:
        """The same task on the board's side."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the batch's tensors that inference takes, in the order of the loss module."""
        ...

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the batch's tensors that only the loss takes, after the inputs."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what inference gives."""
        ...

    @property
    def peft_type(self) -> str:
        """Task type of peft."""
        ...

    @property
    def training_api_loss(self) -> str | None:
        """Name of the loss of onnxruntime-training's artifacts that computes this task's.

        None where it has none.
        """
        ...

    @property
    def needs_head(self) -> bool:
        """Whether the head must be the model's own: a new one would take more than fine-tuning."""
        ...

    def model_options(self) -> dict[str, Any]:
        """Options for `from_pretrained` of the task's auto class: what the head has to be."""
        ...

    def loss(self, model: "nn.Module") -> "nn.Module":
        """The module to trace; its attribute `model` is the model.

        Its `forward` maps the inputs and the targets, by position and under their names, to the
        loss, a scalar, and the outputs, detached.
        """
        ...

    def token_loss(self, model: "nn.Module") -> "nn.Module | None":
        """The loss of each token, where tokens know nothing of each other behind the stack.

        Its `forward` maps token ids to learn, (1, tokens), to losses of that shape; its attribute
        `model` is the model. None where the loss is no mean over tokens.
        """
        ...

    def save(self, directory: Path, *, length: int) -> None:
        """Write what a converted model needs beside its weights, configuration and tokenizer.

        Args:
            directory: The folder that transformers will load.
            length: Count of tokens that texts are cut to.
        """
        ...


@runtime_checkable
class ExportWriter(Protocol):
    """A task whose models write token by token."""

    def decoder(self, model: "nn.Module") -> "nn.Module | None":
        """The module that goes on behind tokens whose keys and values are there.

        Its `forward` maps token ids, mask and places of new tokens, and transformers' cache of
        those before, to logits; its attribute `model` is the model. None where the model keeps no
        keys and values.
        """
        ...


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model before its weights are read.

    Attributes:
        name: Name of the model, for messages.
        config: The configuration of the model.
        tokenizer: The tokenizer of the model; None where only sizes count, as in a plan. What is
            not given of a new head is assumed then.
        file: Finds a file of the model by its name; None where there is no such file.
    """

    name: str
    config: "PretrainedConfig"
    tokenizer: "PreTrainedTokenizerBase | None" = None
    file: Callable[[str], Path | None] = lambda _: None


class WantedTask(ABC):
    """A task as a user asks for it: a choice of `--task`, whose options are its fields.

    Attributes:
        name: What `--task` calls it, in optimum's terms.
        summary: What a model learns, for the help.
        splits_words: Whether texts come as words, which get the token ids that they have in a text.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    splits_words: ClassVar[bool] = False

    @abstractmethod
    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The task as a model's own head has it, or as a new head shall have it.

        Raises:
            ModelError: The model cannot have such a head, or brings another one.
            InputError: An option does not hold, or what a new head shall be is not known.
            DataError: A file that an option names cannot be read.
        """

    def check_length(self, length: int) -> None:  # noqa: B027 - most options fit any
        """Refuse a length of rows that the options do not fit.

        Args:
            length: Count of tokens that texts are cut to.

        Raises:
            InputError: An option does not hold for it.
        """

    def of_rows(self, file: Path) -> Self:  # noqa: ARG002 - most tasks need nothing of them
        """The task with what rows of it say, where no option says it: their labels, for example.

        Args:
            file: Rows to train on.

        Raises:
            DataError: The file cannot be read.
        """
        return self
