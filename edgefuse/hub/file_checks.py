"""Checks of a model's files before anything is loaded."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers

from edgefuse_devices.errors import ModelError

_POINTER = b"version https://git-lfs"


def refuse_remote_code(files: Iterable[Path], name: str) -> None:
    """Refuse a model that only Python code of its own can compute, which is never run.

    Where transformers has the classes itself, it takes those, and the code lies there for nothing.

    Args:
        files: The model's config.json and tokenizer_config.json, where they are.
        name: Name of the model, for messages.

    Raises:
        ModelError: One of them names such code in `auto_map`, and a class that transformers lacks.
    """
    for file in files:
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            continue  # loading it has a sentence for that
        if isinstance(settings, dict) and settings.get("auto_map") and not _is_known(settings):
            raise ModelError(
                f"{name} brings Python code of its own (auto_map in {file.name}), which EdgeFuse "
                "does not run",
                "Choose a model whose architecture transformers has itself",
            )


def _is_known(settings: dict[str, Any]) -> bool:
    """Whether transformers itself has the class that a configuration names."""
    return settings.get("model_type") in transformers.CONFIG_MAPPING or hasattr(
        transformers, str(settings.get("tokenizer_class"))
    )


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder in which git-lfs left its pointers in the place of files that are needed.

    Raises:
        ModelError: A file is a pointer; the message names it.
    """
    weights = [*folder.glob("model*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
    vocabulary = [*folder.glob("tokenizer.json")] or [*folder.glob("*.model")]
    for file in sorted((*weights, *vocabulary)):
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise ModelError(
                    f"{file} is a git-lfs pointer, not the file itself",
                    f"Fetch it: git -C {folder} lfs pull",
                )


def folder_within(folder: Path) -> Path | None:
    """Find the one subfolder that holds a model, such as sentence-transformers' `0_Transformer`."""
    found = [file.parent for file in folder.glob("*/config.json")]
    whole = [one for one in found if any(one.glob("*.safetensors")) or any(one.glob("*.bin"))]
    return whole[0] if len(whole) == 1 else None
