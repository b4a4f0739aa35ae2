"""A model's configuration and weights, as transformers loads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from edgefuse.hub.errors import CHECK_FILES, translate_errors
from edgefuse.hub.finite import check_finite
from edgefuse.hub.gguf import as_numbers
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, as_pretrained
from edgefuse_devices.errors import ModelError


def load_config(source: ModelSource) -> PretrainedConfig:
    """Load a model's configuration.

    Raises:
        ModelError: The configuration is broken, its architecture is unknown to transformers, or
            the model is quantised.
    """
    with (
        silence_transformers(),
        translate_errors(source.name, _hint(source)),
        as_pretrained(source) as (name, options),
    ):
        config = AutoConfig.from_pretrained(name, **options, trust_remote_code=False)
    assert isinstance(config, PretrainedConfig)
    if source.gguf is not None:
        _name_class(config)
    parts = (config, config.get_text_config())
    if any(getattr(part, "quantization_config", None) for part in parts):
        raise ModelError(
            f"{source.name} is quantised, and its weights are no numbers to compute with",
            "Start from the model that it was made from",
        )
    return config


def _hint(source: ModelSource) -> str:
    """What to do about a configuration that cannot be read."""
    if source.gguf is None:
        return CHECK_FILES
    return "Name the directory of the model that the file was made from"


def _name_class(config: PretrainedConfig) -> None:
    """Name the language model's class in a configuration, which a GGUF file does not."""
    names = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES | MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not config.architectures and config.model_type in names:
        config.architectures = [names[config.model_type]]


def model_class(config: PretrainedConfig) -> type[Any]:
    """Find the class that saved a model; `AutoModel` where the configuration names none."""
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    return found if isinstance(found, type) else AutoModel


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """Make a model without storage for its weights (device "meta"): fast, for planning.

    Raises:
        ModelError: The configuration contradicts itself.
    """
    kind = model_class(config)
    with (
        silence_transformers(),
        translate_errors(f"A {kind.__name__} of this configuration"),
        torch.device("meta"),
    ):
        model = (
            kind.from_config(config, trust_remote_code=False) if kind is AutoModel else kind(config)
        )
    assert isinstance(model, PreTrainedModel)
    return model


def load_model(source: ModelSource, config: PretrainedConfig) -> PreTrainedModel:
    """Load a model by its own class, float32, in evaluation mode.

    Raises:
        ModelError: Weights are missing, broken, not finite, or of other sizes than the
            configuration's.
    """
    model, info = from_files(
        source,
        model_class(config),
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # refused below, in a sentence
        trust_remote_code=False,
    )
    check_sizes(model, info, source.name)
    check_weights(model, info, source.name)
    return model  # from_pretrained leaves it in evaluation mode


def from_files(
    source: ModelSource, kind: type[Any], **options: Any
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Load a model's weights, of a GGUF file as plain numbers.

    Args:
        source: The model.
        kind: Class of transformers that loads it.
        **options: Options of its `from_pretrained`.

    Returns:
        The model, and what transformers reports of its loading.

    Raises:
        ModelError: The files are broken.
    """
    with (
        silence_transformers(),
        translate_errors(source.name),
        as_pretrained(source) as (name, place),
    ):
        if source.gguf is not None:
            options |= as_numbers()
        model, info = kind.from_pretrained(name, **place, **options, output_loading_info=True)
    assert isinstance(model, PreTrainedModel)
    return model, info


def check_sizes(model: PreTrainedModel, info: Mapping[str, Any], name: str) -> None:
    """Refuse a model whose files have weights of other sizes than its configuration.

    Args:
        model: The model as it was loaded, with `ignore_mismatched_sizes`.
        info: What transformers reports of its loading.
        name: Name of the model, for messages.

    Raises:
        ModelError: A weight has another size.
    """
    for key, stored, expected in sorted(info["mismatched_keys"]):
        rows, configured = stored[0], expected[0]
        if key.endswith(_embedding_name(model)) and stored[1:] == expected[1:]:
            raise ModelError(
                f"{name} has embeddings for {rows} tokens, and a vocab_size of {configured} in its "
                "config.json",
                f"Set vocab_size to {rows}, if the model was trained with that",
            )
        raise ModelError(
            f"{name} has weights of other sizes than its config.json says: {key} is "
            f"{_shape(stored)}, not {_shape(expected)}",
            "Download or save the model again",
        )


def check_weights(
    model: PreTrainedModel, info: Mapping[str, Any], name: str, *, needs_head: bool = True
) -> None:
    """Refuse a model whose files lack weights or have some that are NaN or infinite.

    A pooler may be absent: sentence encoders are often saved without the one they never use.

    Args:
        model: The model as it was loaded.
        info: What transformers reports of its loading.
        name: Name of the model, for messages.
        needs_head: Whether the weights of a head must be there; a new head is yet to be learned.

    Raises:
        ModelError: A weight is absent, NaN or infinite.
    """
    has_head = model.base_model is not model
    needed = "" if needs_head or not has_head else f"{model.base_model_prefix}."
    missing = sorted(
        key for key in info["missing_keys"] if key.startswith(needed) and "pooler." not in key
    )
    if missing:
        kind = type(model).__name__
        raise ModelError(
            f"{name} lacks {len(missing)} of the weights of {kind}, {missing[0]} for one",
            f"Download the model again, or save it again as {kind}",
        )
    for key, tensor in model.state_dict().items():
        check_finite(tensor, name, key)


def embedding_rows(model: PreTrainedModel) -> int:
    """Count the tokens that a model has embeddings for."""
    rows = model.get_input_embeddings().num_embeddings
    assert isinstance(rows, int)
    return rows


def position_count(config: PretrainedConfig) -> int | None:
    """Count the positions that a model has; None where any number will do (XLNet's -1)."""
    names = ("max_position_embeddings", "max_seq_len")  # the second is MPT's
    count = next((int(n) for name in names if (n := getattr(config, name, None))), 0)
    return count if count > 0 else None


def _embedding_name(model: PreTrainedModel) -> str:
    """Name of the token embeddings' weight within the base model, which a full name ends with."""
    embeddings = model.get_input_embeddings()
    names = (name for name, module in model.base_model.named_modules() if module is embeddings)
    return f"{next(names)}.weight"


def _shape(sizes: Sequence[int]) -> str:
    return " × ".join(map(str, sizes))
