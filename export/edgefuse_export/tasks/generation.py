"""What a model that writes says of its texts: where they end, and how chats are written."""

import json
from typing import TYPE_CHECKING, Any

from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.task import ModelFacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SETTINGS = "generation_config.json"


def end_ids(facts: ModelFacts) -> list[int]:
    """Token ids that end a text, the one to learn first.

    That is the tokenizer's, as trl has it; others are those at which transformers stops.

    Args:
        facts: What is known of the model.

    Raises:
        ModelError: There is none.
    """
    if facts.tokenizer is None:
        return [0]
    own = facts.tokenizer.eos_token_id
    settings = generation_settings(facts) or {}
    found = [own, *_listed(settings.get("eos_token_id")), *_listed(facts.config.eos_token_id)]
    known = [token_id for token_id in dict.fromkeys(found) if isinstance(token_id, int)]
    if not known:
        raise ModelError(
            f"{facts.name} has no token that ends a text, and so could not learn where to stop",
            "Give its tokenizer an `eos_token`, and save it with `save_pretrained`",
        )
    return known


def chat_template_of(tokenizer: "PreTrainedTokenizerBase | None") -> str | None:
    """A tokenizer's chat template, its default one where it has several; None for none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template or None


def special_tokens_of(tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, str]:
    """Texts of special tokens by their names, as transformers gives them to chat templates."""
    if tokenizer is None:
        return {}
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def generation_settings(facts: ModelFacts) -> dict[str, Any] | None:
    """What generation_config.json says; None where a model has none.

    Args:
        facts: What is known of the model.

    Raises:
        ModelError: It is broken JSON, or no object.
    """
    file = facts.file(_SETTINGS)
    if file is None:
        return None
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{_SETTINGS} of {facts.name} is broken JSON: {error}", "Download the model again"
        ) from error
    if not isinstance(settings, dict):
        raise ModelError(f"{_SETTINGS} of {facts.name} is no object", "Download the model again")
    return settings


def _listed(token_ids: object) -> list[object]:
    return token_ids if isinstance(token_ids, list) else [token_ids]
