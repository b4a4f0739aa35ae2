"""The files by which sentence-transformers knows what follows the transformer of a model.

    modules.json                       Transformer, Pooling and perhaps Normalize
    sentence_bert_config.json          count of tokens that texts are cut to
    config_sentence_transformers.json  prompts, and that cosines compare embeddings
    1_Pooling/config.json              what makes one vector of a text's hidden states

They are written as version 2 of the library did, which all later ones read.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ModelFacts

if TYPE_CHECKING:
    from edgefuse_export.losses.sentence_similarity import Pooling

POOLINGS = ("mean", "cls", "lasttoken")
"""What `--pooling` takes, by sentence-transformers' names."""

_MODULES = "modules.json"
_TRANSFORMER = "sentence_bert_config.json"
_LIBRARY = "config_sentence_transformers.json"
_POOLING = "1_Pooling"
_NORMALIZE = "2_Normalize"
_CONFIG = "config.json"

_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Truth values of a pooling's configuration in version 2, by the names of later ones."""


@dataclass(frozen=True)
class SentenceModules:
    """What follows a transformer.

    Attributes:
        pooling: What makes one vector of a text's hidden states; one of `POOLINGS`.
        normalize: Whether embeddings have length 1.
        prompts: Words to put before texts, by name.
        default_prompt: Name of the one that is put before every text; None for none.
    """

    pooling: "Pooling"
    normalize: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    @property
    def prompt(self) -> str:
        """Words that are put before every text."""
        return self.prompts.get(self.default_prompt or "", "")

    def write(self, directory: Path, *, hidden: int, length: int) -> None:
        """Write the files.

        Args:
            directory: The model's folder.
            hidden: Numbers of an embedding.
            length: Count of tokens that texts are cut to.
        """
        modules = [("Transformer", ""), ("Pooling", _POOLING)]
        if self.normalize:
            modules.append(("Normalize", _NORMALIZE))
        entries = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(modules)
        ]
        flags = {flag: mode == self.pooling for mode, flag in _FLAGS.items()}
        for _, folder in modules:
            (directory / folder).mkdir(exist_ok=True)
        _write(directory / _MODULES, entries)
        _write(directory / _TRANSFORMER, {"max_seq_length": length, "do_lower_case": False})
        _write(directory / _POOLING / _CONFIG, {"word_embedding_dimension": hidden, **flags})
        _write(
            directory / _LIBRARY,
            {
                "prompts": self.prompts,
                "default_prompt_name": self.default_prompt,
                "similarity_fn_name": "cosine",
            },
        )


def read_modules(facts: ModelFacts, pooling: "Pooling | None") -> SentenceModules | None:
    """Read what follows a model's transformer; None where no file says it.

    Args:
        facts: What is known of the model.
        pooling: Pooling to take instead of the model's own; None for that.

    Raises:
        ModelError: A file is broken, or something follows that EdgeFuse does not compute.
    """
    if facts.file(_MODULES) is None:
        return None
    modules = _read(facts, _MODULES, list)
    if not all(isinstance(one, dict) for one in modules):
        raise _broken(facts, _MODULES)
    kinds = {str(one.get("type")).rpartition(".")[2]: str(one.get("path")) for one in modules}
    for kind in kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ModelError(
            f"{facts.name} has a module {kind} after its transformer ({_MODULES}), which EdgeFuse "
            "does not compute",
            "Begin from a model with Pooling and Normalize alone, or delete the file and choose "
            "with --pooling",
        )
    library = _read(facts, _LIBRARY, dict) if facts.file(_LIBRARY) else {}
    prompts = library.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise _broken(facts, _LIBRARY)
    return SentenceModules(
        pooling=pooling or _read_pooling(facts, kinds.get("Pooling", _POOLING)),
        normalize="Normalize" in kinds,
        prompts={str(name): str(text or "") for name, text in prompts.items()},
        default_prompt=library.get("default_prompt_name"),
    )


def _read_pooling(facts: ModelFacts, folder: str) -> "Pooling":
    config = _read(facts, f"{folder}/{_CONFIG}", dict)
    given = config.get("pooling_mode", [mode for mode, flag in _FLAGS.items() if config.get(flag)])
    modes: list[Any] = [given] if isinstance(given, str) else [*given] or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise ModelError(
            f"{facts.name} pools by {' and '.join(modes)}, and EdgeFuse by one of "
            f"{', '.join(POOLINGS)}",
            "Choose one with --pooling, which the model then learns",
        )
    if not config.get("include_prompt", True):
        raise ModelError(
            f"{facts.name} leaves prompts out of its pooling, which EdgeFuse does not",
            "Begin from another model",
        )
    pooling: Pooling = modes[0]
    return pooling


def _read(facts: ModelFacts, name: str, kind: type[Any]) -> Any:
    file = facts.file(name)
    try:
        content = None if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, kind):
        raise _broken(facts, name, "broken" if file else "not there")
    return content


def _broken(facts: ModelFacts, name: str, how: str = "broken") -> ModelError:
    return ModelError(
        f"{facts.name} has a {_MODULES}, and its {name} is {how}",
        "Download or save the model again",
    )


def _write(file: Path, content: object) -> None:
    file.write_text(f"{json.dumps(content, indent=2)}\n", encoding="utf-8")
