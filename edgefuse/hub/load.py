"""Load a plain model as transformers would, with one sentence for whatever is wrong with it."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from shlex import quote
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from edgefuse.artifact.record import RECORD
from edgefuse.hub.finite import check_finite
from edgefuse_devices.errors import EdgeFuseError, ModelError
from edgefuse_runtime.files.folder_kinds import kind_of

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_SAYS_NOTHING = re.compile(r"(model|output|checkpoint)([-_]?\d+)?")


@dataclass(frozen=True)
class ModelSource:
    """A model that is there.

    Attributes:
        name: What transformers loads: a directory or a hub name.
        label: What records call it: a hub name, or a directory's own name without its path (with
            its parent's name, where its own would do for any model).
        revision: Commit on the hub, None for a directory of the user's.
    """

    name: str
    label: str
    revision: str | None

    @property
    def ref(self) -> str:
        """The revision as transformers wants it, which for a directory means nothing."""
        return self.revision or "main"


def find_source(model: str, revision: str | None = None) -> ModelSource:
    """Find out what `model` is, and that it has a configuration.

    A compressed model on the hub is downloaded whole: its weights mean nothing without its record.

    Args:
        model: A directory, or a name on the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for the default branch.

    Raises:
        ModelError: There is no such model, or the hub cannot be reached.
    """
    path = Path(model).expanduser()
    if not model.strip():
        raise ModelError("The model has no name", "Name a model's directory, or one on the hub")
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "adapter_config.json").is_file():
                raise ModelError(
                    f"{model} is an adapter, not a model",
                    "Name the model that it was made for; `edgefuse export` takes adapters too",
                )
            kind = kind_of(path)
            raise ModelError(
                f"{model} is {f'{kind}, not a' if kind else 'no'} model: it has no config.json",
                f"Make one of it: edgefuse convert {quote(model)} OUTPUT --to transformers"
                if kind in {"a run", "a bundle"}
                else "Name a directory that `save_pretrained` or `edgefuse compress` wrote, or a "
                "model on the hub",
            )
        if revision is not None:
            raise ModelError(
                f"{model} is a directory, and revisions are of models on the hub",
                "Leave --revision out, or name a model on the hub",
            )
        return ModelSource(str(path), _label(path.resolve()), None)
    if path.exists():
        raise ModelError(
            f"{model} is a file, not a model's directory", "Name the directory that holds it"
        )
    if not _HUB_NAME.fullmatch(model):
        raise ModelError(
            f"{model} does not exist", "Name a model's directory, or a model on the hub"
        )
    plain = ModelSource(model, model, _commit(model, revision))
    with quiet(), one_sentence(model):
        if not find_file(plain, RECORD):
            return plain
        snapshot = snapshot_download(model, revision=plain.revision)
    return ModelSource(snapshot, model, plain.revision)


def load_config(source: ModelSource) -> PretrainedConfig:
    """Load a model's configuration.

    Raises:
        ModelError: It is broken, or of an architecture that transformers does not have; or the
            model is quantised.
    """
    with quiet(), one_sentence(source.name):
        config = AutoConfig.from_pretrained(source.name, revision=source.ref)
    assert isinstance(config, PretrainedConfig)
    parts = (config, config.get_text_config())
    if any(getattr(part, "quantization_config", None) for part in parts):
        raise ModelError(
            f"{source.name} is quantised, and its weights are no numbers to compute with",
            "Start from the model that it was made from",
        )
    return config


def model_class(config: PretrainedConfig) -> type[Any]:
    """The class that saved the model, or `AutoModel` where its configuration does not say."""
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    return found if isinstance(found, type) else AutoModel


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model without storage for its weights (device "meta"): fast, for planning.

    Raises:
        ModelError: The configuration contradicts itself.
    """
    kind = model_class(config)
    with quiet(), one_sentence(f"A {kind.__name__} of this configuration"), torch.device("meta"):
        model = kind.from_config(config) if kind is AutoModel else kind(config)
    assert isinstance(model, PreTrainedModel)
    return model


def load_model(source: ModelSource, config: PretrainedConfig) -> PreTrainedModel:
    """Load a model by its own class, float32, in evaluation mode.

    Raises:
        ModelError: Its weights are missing, broken, not finite or those of another architecture.
    """
    with quiet(), one_sentence(source.name):
        model, info = model_class(config).from_pretrained(
            source.name,
            revision=source.ref,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in a sentence
        )
    assert isinstance(model, PreTrainedModel)
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    if mismatched:
        raise ModelError(
            f"{source.name} has weights of other sizes than its config.json says, "
            f"{mismatched[0]} for one",
            "Download or save the model again",
        )
    check_weights(model, info, source.name)
    return model  # from_pretrained leaves it in evaluation mode


def check_weights(
    model: PreTrainedModel, info: Mapping[str, Any], name: str, *, needs_head: bool = True
) -> None:
    """Refuse a model whose files lack weights or have some that are NaN or infinite.

    A pooler may be absent: sentence encoders are often saved without the one they never use.

    Args:
        model: As it was loaded.
        info: What transformers says of its loading.
        name: Of the model, for messages.
        needs_head: Without, the weights of a head may be absent, for they are to be learned.

    Raises:
        ModelError: It does.
    """
    has_head = model.base_model is not model
    needed = "" if needs_head or not has_head else f"{model.base_model_prefix}."
    missing = sorted(
        key for key in info["missing_keys"] if key.startswith(needed) and "pooler." not in key
    )
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of the weights of {type(model).__name__}, "
            f"{missing[0]} for one",
            "Download or save the model again",
        )
    for key, tensor in model.state_dict().items():
        check_finite(tensor, name, key)


def embedding_rows(model: PreTrainedModel) -> int:
    """How many tokens a model has embeddings for."""
    rows = model.get_input_embeddings().num_embeddings
    assert isinstance(rows, int)
    return rows


def position_count(config: PretrainedConfig) -> int | None:
    """Positions that a configuration names; None for none, or for any number (XLNet's -1)."""
    count = int(getattr(config, "max_position_embeddings", None) or 0)
    return count if count > 0 else None


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ModelError: It has none.
    """
    with quiet(), one_sentence(f"The tokenizer of {source.name}"):
        tokenizer = AutoTokenizer.from_pretrained(source.name, revision=source.ref)
        # Without its files transformers makes a tokenizer that knows its special tokens only.
        files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
        if not any(find_file(source, file) for file in sorted(files)):
            raise ModelError(
                f"{source.name} has no tokenizer", "Put its tokenizer.json beside config.json"
            )
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' and the hub's reports and bars off the terminal for a while."""
    verbosity = transformers_logging.get_verbosity()
    hub_verbosity = hub_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    hub_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def one_sentence(subject: str) -> Iterator[None]:
    """Turn what loading raises into a ModelError that quotes its first line.

    Libraries say of a broken file what they like; so nothing but their calls belongs in here.

    Args:
        subject: What is being loaded.
    """
    try:
        yield
    except (EdgeFuseError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        if isinstance(error, UnpicklingError):  # torch's text is advice, and bad
            reason = "its weights are no file that torch wrote, or broken"
        hint = "Check the directory, or download the model again"
        if isinstance(error, ImportError):
            hint = "Install what is missing"
        raise ModelError(f"{subject} cannot be loaded: {reason}", hint) from error


def _label(directory: Path) -> str:
    generic = _SAYS_NOTHING.fullmatch(directory.name) and directory.parent.name
    return f"{directory.parent.name}/{directory.name}" if generic else directory.name


def find_file(source: ModelSource, file: str) -> str | None:
    """Where a model's file of that name is, of the hub's fetched first; None where it has none."""
    path: str | None = cached_file(
        source.name,
        file,
        revision=source.revision,
        _raise_exceptions_for_missing_entries=False,
    )
    return path


def _commit(name: str, revision: str | None) -> str:
    hint = "Check its spelling on https://huggingface.co/models, or name a directory"
    try:
        with quiet():
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
