"""Where a model is: a directory, a GGUF file, or a name on the Hugging Face hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils.hub import cached_file

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.file_checks import folder_within, refuse_pointers, refuse_remote_code
from edgefuse.hub.gguf import GGUF, is_gguf, only_gguf, read_gguf
from edgefuse.hub.silence import silence_transformers
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.files.folder_kinds import COMPRESSION_RECORD, kind_of

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_SAYS_NOTHING = re.compile(r"(model|output|checkpoint)([-_]?\d+)?")


@dataclass(frozen=True)
class ModelSource:
    """A model that was found.

    Attributes:
        name: A directory, a hub name, or a GGUF file.
        label: Name that records give it: a hub name, or a directory's or a GGUF file's own name
            without its path (with its parent's name, where it is called `model` or the like).
        revision: Commit on the hub; None for what is the user's.
        gguf: What a GGUF file says of its model; None for every other source.
    """

    name: str
    label: str
    revision: str | None
    gguf: GGUF | None = None

    @property
    def ref(self) -> str:
        """The revision as transformers wants it; it ignores a directory's."""
        return self.revision or "main"


@contextmanager
def as_pretrained(source: ModelSource) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what `from_pretrained` of transformers takes for a model: its name, and options.

    A GGUF file is shown alone in a folder: of files beside it, transformers would take tokenizer
    and adapters.
    """
    if source.gguf is None:
        yield source.name, {"revision": source.ref}
        return
    path = Path(source.name).resolve()
    with TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # its bars go there
        (Path(folder) / path.name).symlink_to(path)
        yield folder, {"gguf_file": path.name}


def find_source(model: str, revision: str | None = None) -> ModelSource:
    """Find a model that has a configuration.

    A compressed model on the hub is downloaded whole: its weights mean nothing without its record.

    Args:
        model: A directory, a GGUF file, or a name on the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for the default branch.

    Raises:
        ModelError: There is no such model, or the hub cannot be reached; or the model brings
            Python code of its own, or git-lfs's pointers in the place of files; or a GGUF file
            cannot be read.
    """
    path = Path(model).expanduser()
    if not model.strip():
        raise ModelError("The model has no name", "Name a model's directory, or one on the hub")
    if path.is_dir():
        return _in_directory(path, model, revision)
    if path.exists():
        return _in_file(path, model, revision)
    if not _HUB_NAME.fullmatch(model):
        raise ModelError(
            f"{model} does not exist", "Name a model's directory, or a model on the hub"
        )
    plain = ModelSource(model, model, _commit(model, revision))
    with silence_transformers(), translate_errors(model):
        if not find_file(plain, COMPRESSION_RECORD):
            return _checked(plain, model)
        snapshot = snapshot_download(model, revision=plain.revision)
    return _checked(ModelSource(snapshot, model, plain.revision), model)


def _in_file(path: Path, model: str, revision: str | None) -> ModelSource:
    """Find the model of a GGUF file, which the user calls `model`."""
    if not is_gguf(path):
        raise ModelError(
            f"{model} is a file, not a model's directory", "Name the directory that holds it"
        )
    _refuse_revision(model, revision, "a file")
    label = _label(path.resolve().with_suffix(""))
    return ModelSource(str(path), label, None, read_gguf(path, model))


def _refuse_revision(model: str, revision: str | None, kind: str) -> None:
    if revision is not None:
        raise ModelError(
            f"{model} is {kind}, and revisions are of models on the hub",
            "Leave --revision out, or name a model on the hub",
        )


def _in_directory(path: Path, model: str, revision: str | None) -> ModelSource:
    """Find the model of a directory, which the user calls `model`."""
    if not (path / "config.json").is_file():
        file = only_gguf(path, model)
        if file is not None:
            return _in_file(file, str(file), revision)
        if (path / "adapter_config.json").is_file():
            raise ModelError(
                f"{model} is a peft adapter, not a model",
                "Name the model that it was made for; `edgefuse export` takes peft adapters too",
            )
        kind = kind_of(path)
        within = None if kind else folder_within(path)
        if within is not None:
            raise ModelError(
                f"{model} has no config.json, and its folder {within.name} holds a model",
                f"Name that: {quote(str(within))}",
            )
        raise ModelError(
            f"{model} is {f'{kind}, not a' if kind else 'no'} model: it has no config.json",
            f"Make one of it: edgefuse convert {quote(model)} OUTPUT --to transformers"
            if kind in {"a run", "a bundle"}
            else "Name a directory that `save_pretrained` or `edgefuse compress` wrote, or a "
            "model on the hub",
        )
    _refuse_revision(model, revision, "a directory")
    refuse_pointers(path)
    return _checked(ModelSource(str(path), _label(path.resolve()), None), model)


def find_file(source: ModelSource, file: str) -> str | None:
    """Find a model's file, fetched first where it is on the hub; None where there is none.

    A GGUF file has everything in it, and no files beside.
    """
    if source.gguf is not None:
        return None
    path: str | None = cached_file(
        source.name,
        file,
        revision=source.revision,
        _raise_exceptions_for_missing_entries=False,
    )
    return path


def _checked(source: ModelSource, name: str) -> ModelSource:
    """Refuse a model that brings Python code of its own; give any other source back."""
    found = (find_file(source, file) for file in ("config.json", "tokenizer_config.json"))
    refuse_remote_code([Path(file) for file in found if file is not None], name)
    return source


def _label(directory: Path) -> str:
    generic = _SAYS_NOTHING.fullmatch(directory.name) and directory.parent.name
    return f"{directory.parent.name}/{directory.name}" if generic else directory.name


def _commit(name: str, revision: str | None) -> str:
    hint = "Check its spelling on https://huggingface.co/models, or name a directory"
    try:
        with silence_transformers():
            config = hf_hub_download(name, "config.json", revision=revision)
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{name} is no directory here, and the Hugging Face hub cannot be reached",
            "Connect to the network, or name a model's directory",
        ) from error
    except GatedRepoError as error:
        raise ModelError(
            f"{name} is gated on the hub", "Ask for access there and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(f"{name} is no directory here and no model on the hub", hint) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {revision!r} on the hub", hint) from error
    except EntryNotFoundError as error:
        raise ModelError(f"{name} is no model: it has no config.json on the hub", hint) from error
    except HfHubHTTPError as error:
        raise ModelError(
            f"The Hugging Face hub refused to give {name}: {error.response.status_code}", hint
        ) from error
    return Path(config).parent.name  # …/snapshots/COMMIT/config.json
