"""GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): what one says of itself.

transformers makes a model, its configuration and its tokenizer of such a file; here it is checked
beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Any

from edgefuse_devices.errors import ModelError

_MAGIC = b"GGUF"
_MODEL = "model"
_ALONE = 1


@dataclass(frozen=True)
class GGUF:
    """What a GGUF file says of its model.

    Attributes:
        architecture: The architecture, as llama.cpp calls it.
        tokenizer: Kind of the tokenizer; None where the file has none.
        pre_tokenizer: How texts are split before a byte-level BPE, as llama.cpp calls it; None
            where the file does not say.
    """

    architecture: str
    tokenizer: str | None
    pre_tokenizer: str | None


def is_gguf(path: Path) -> bool:
    """Whether a file is meant as GGUF, by its ending or by how it begins."""
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_gguf(path: Path, name: str) -> GGUF:
    """Read what a GGUF file says of its model, and make sure that it is whole.

    Args:
        path: The file.
        name: Name of the file, for messages.

    Raises:
        ModelError: The file is broken, cut, one of several parts or no model, or the package that
            reads such files is missing.
    """
    if find_spec("gguf") is None:
        raise ModelError(
            f"{name} is a GGUF file, and the package gguf, which reads those, is not installed",
            "Install it: pip install 'edgefuse[gguf]'",
        )
    values = _fields(path, name)
    kind, parts = values.get("general.type", _MODEL), values.get("split.count", _ALONE)
    if "general.architecture" not in values or kind != _MODEL:
        raise ModelError(
            f"{name} is a GGUF file without a model: it holds {kind}"
            if kind != _MODEL
            else f"{name} is a GGUF file that names no architecture",
            "Name a GGUF file that holds a whole model",
        )
    if parts > _ALONE:
        raise ModelError(
            f"{name} is one of the {parts} parts of a model",
            "Join them first: llama-gguf-split --merge FIRST-PART WHOLE.gguf",
        )
    return GGUF(
        architecture=values["general.architecture"],
        tokenizer=values.get("tokenizer.ggml.model"),
        pre_tokenizer=values.get("tokenizer.ggml.pre"),
    )


def _fields(path: Path, name: str) -> Mapping[str, Any]:
    """The values of a file that are no lists."""
    from gguf import GGUFReader  # noqa: PLC0415 - an extra

    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelError(
                f"{name} is no GGUF file: it does not begin with {_MAGIC.decode()}",
                "Download it again",
            )
    try:
        fields = GGUFReader(path).fields
        return {key: field.contents() for key, field in fields.items() if len(field.data) == 1}
    except Exception as error:  # whatever the bytes that are not there would have been
        raise ModelError(
            f"{name} is a GGUF file that is broken or was cut off", "Download it again"
        ) from error


def only_gguf(folder: Path, name: str) -> Path | None:
    """Find the one GGUF file in a folder; None where there is none.

    Args:
        folder: The folder.
        name: Name of the folder, for messages.

    Raises:
        ModelError: There are several.
    """
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        raise ModelError(
            f"{name} holds {len(found)} GGUF files, and any of them may be meant",
            f"Name one: {quote(str(found[0]))}, say",
        )
    return found[0] if found else None


def as_numbers() -> dict[str, Any]:
    """Options of `from_pretrained` by which weights of few bits become plain numbers."""
    from transformers import GgufConfig  # noqa: PLC0415 - older ones, which do not read GGUF, lack it

    return {"quantization_config": GgufConfig(dequantize=True)}
