"""A peft adapter's directory, and the model that it was made for."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig, PeftType
from peft.utils import CONFIG_NAME

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.source import ModelSource, find_source
from edgefuse_devices.errors import ModelError


@dataclass(frozen=True)
class Adapter:
    """An adapter that is there, and its base.

    Attributes:
        path: The directory that peft wrote.
        kind: What peft calls it.
        base: The model that it goes onto.
    """

    path: Path
    kind: PeftType
    base: ModelSource


def find_adapter(model: str) -> Adapter | None:
    """The adapter of a directory, None where it holds none.

    Args:
        model: What export was given.

    Raises:
        ModelError: The adapter's base model cannot be found, or its configuration is broken.
    """
    path = Path(model).expanduser()
    if not (path / CONFIG_NAME).is_file():
        return None
    with translate_errors(model):
        config = PeftConfig.from_pretrained(str(path))
        kind = PeftType(config.peft_type)
    name = str(config.base_model_name_or_path or "")
    beside = path.resolve().parent / name
    try:
        base = find_source(str(beside)) if beside.is_dir() else find_source(name, config.revision)
    except ModelError as error:
        raise ModelError(
            f"The adapter {model} was made for {name or 'a model without a name'}, "
            f"which cannot be found: {error.problem}",
            f"Put that model there or beside the adapter, or mend base_model_name_or_path in "
            f"{CONFIG_NAME}",
        ) from error
    return Adapter(path, kind, base)
