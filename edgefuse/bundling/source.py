"""What an export begins from: a model, or a peft adapter and the model that it was made for."""

from dataclasses import dataclass

from edgefuse.hub.peft_adapter import PeftAdapter, find_peft_adapter
from edgefuse.hub.source import ModelSource, find_source
from edgefuse_devices.errors import InputError


@dataclass(frozen=True)
class Origin:
    """What an export begins from.

    Attributes:
        name: The name that the user gave, for messages.
        base: The model.
        adapter: The peft adapter on top of it; None for none.
    """

    name: str
    base: ModelSource
    adapter: PeftAdapter | None

    @property
    def label(self) -> str:
        """The name that the manifest keeps."""
        return self.adapter.path.resolve().name if self.adapter else self.base.label


def find_origin(model: str, revision: str | None) -> Origin:
    """Find a model, or a peft adapter and its base.

    Args:
        model: A directory, a GGUF file or a hub name.
        revision: Branch, tag or commit on the hub; None for the default branch.

    Raises:
        ModelError: There is none, or its base cannot be found.
        InputError: A revision is given for an adapter.
    """
    adapter = find_peft_adapter(model)
    if adapter is None:
        return Origin(model, find_source(model, revision), None)
    if revision is not None:
        raise InputError(
            f"{model} is an adapter, which names its base's revision itself",
            "Leave --revision out, or write the revision into adapter_config.json",
        )
    return Origin(model, adapter.base, adapter)
