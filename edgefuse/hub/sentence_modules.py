"""The files by which sentence-transformers knows what follows the transformer of a model."""

import json
import shutil
from pathlib import Path, PureWindowsPath

from edgefuse.hub.source import ModelSource, find_file

_MODULES = "modules.json"
_BESIDE = (_MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
_WITHIN = ("config.json", "model.safetensors", "pytorch_model.bin")


def copy_sentence_modules(source: ModelSource, directory: Path) -> None:
    """Copy the files of a sentence encoder into a folder that is to hold the same model changed.

    Of a model without such files nothing is copied, and of modules that lie outside of its folder.

    Args:
        source: The model.
        directory: A folder that exists.
    """
    found = find_file(source, _MODULES)
    if found is None:
        return
    names = [*_BESIDE]
    for path in _paths(Path(found)):
        (directory / path).mkdir(parents=True, exist_ok=True)
        names += [f"{path}/{name}" for name in _WITHIN]
    for name in names:
        if file := find_file(source, name):
            shutil.copyfile(file, directory / name)


def _paths(modules: Path) -> list[str]:
    """The modules' own folders, the transformer's left out; none where the file is broken."""
    try:
        entries = json.loads(modules.read_text(encoding="utf-8"))
        # Windows' paths have all that other systems' have: what leaves a folder there is refused.
        paths = [PureWindowsPath(str(entry["path"])) for entry in entries]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return [
        path.as_posix()
        for path in paths
        if path.parts and not path.anchor and ".." not in path.parts
    ]
