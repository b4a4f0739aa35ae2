"""A peft adapter's directory, and the model that it was made for."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftConfig, PeftType
from peft.utils import CONFIG_NAME

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.source import ModelSource, find_source
from edgefuse_devices.errors import ModelError


@dataclass(frozen=True)
class PeftAdapter:
    """A peft adapter's directory, and its base model.

    Attributes:
        path: Directory that peft wrote.
        kind: Kind of the adapter, as peft names it.
        base: Model that the adapter changes.
    """

    path: Path
    kind: PeftType
    base: ModelSource


def find_peft_adapter(model: str) -> PeftAdapter | None:
    """Find the peft adapter in a directory; None where there is none.

    Args:
        model: A directory, or anything else that names a model.

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
    return PeftAdapter(path, kind, base)
