"""What a method of compression is: options, and the plan that it makes for a model.

`edgefuse compress --help` reads the options of all: nothing here imports torch.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from edgefuse.artifact.record import CompressionRecord
from edgefuse_runtime.progress import OnProgress

if TYPE_CHECKING:
    from edgefuse.hub.source import ModelSource


class Plan(Protocol):
    """What a method will do to a model, known without its weights."""

    @property
    def source(self) -> "ModelSource":
        """The model."""
        ...

    @property
    def needed_bytes(self) -> int:
        """Room on the disk that the compressed model takes."""
        ...

    def preview(self, on_progress: OnProgress) -> CompressionRecord:
        """The record, as far as it is known without writing anything."""
        ...

    def make(self, directory: Path, on_progress: OnProgress) -> CompressionRecord:
        """Compress the model and write it to an empty directory.

        Raises:
            InputError: The model's weights or the text do not hold.
        """
        ...


class Method(ABC):
    """A choice of `--method` with its options, which are the fields of a frozen dataclass.

    Attributes:
        name: Name that `--method` takes.
        summary: What it does, for the help.
        paper: Where it comes from.
        measures: Whether its errors on text are measured, given text.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    measures: ClassVar[bool] = False

    @abstractmethod
    def plan(self, source: "ModelSource", *, seed: int) -> Plan:
        """Plan the compression of a model. Reads its configuration and the text, no weights.

        Args:
            source: The model.
            seed: Seed of whatever is drawn: same seed, same machine, same bytes.

        Raises:
            InputError: The model, an option or the text does not hold.
        """
