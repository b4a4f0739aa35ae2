"""peft's wrappers: put around a model, filled from a directory, and taken off again."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from peft import (
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils import ModulesToSaveWrapper, load_peft_weights
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.silence import silence_transformers
from edgefuse.tuning.parts import head_modules
from edgefuse_devices.errors import ModelError
from edgefuse_export.silence import silence

ADAPTER = "default"
"""What peft calls an adapter that nobody named."""

_WRAPPED, _OF_LORA = "base_model.model.", ".lora_"
"""What stands before and behind a module's name in the names of an adapter's tensors."""

_PLAIN = re.compile(r"\^?[\w.-]+\$?")
"""Names of modules, which mean the same where they are taken for expressions."""


def wrap(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Put what a configuration of peft says around a model, in place."""
    with silence_transformers(), silence():
        wrapped: PeftModel = get_peft_model(model, config)
    return wrapped


def load_peft_adapter(model: PreTrainedModel, directory: Path, task_type: TaskType) -> PeftModel:
    """Put all of an adapter that peft saved around a model, in place.

    It may have been trained for another task, such as the next token: the model's head, where the
    adapter has none, is then one of the modules that train and are saved with it.

    Args:
        model: The adapter's base.
        directory: Directory that peft saved.
        task_type: peft's name of the task.

    Raises:
        ModelError: The adapter is broken, or has tensors that this model has no place for.
    """
    with translate_errors(str(directory)):
        config = PeftConfig.from_pretrained(str(directory))
        stored = load_peft_weights(str(directory), device="cpu")
    config.task_type = task_type
    saved = set(getattr(config, "modules_to_save", None) or ())
    heads = set(head_modules(model))
    config.modules_to_save = sorted(saved | heads)
    config.inference_mode = True  # of prefixes, the file has what their perceptron made
    with translate_errors(f"The adapter {directory}"):
        _name_modules(config, stored, directory)
        wrapped = wrap(model, config)
        own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        _check_same(model, own, stored, heads - saved, directory)
        with silence_transformers(), silence():
            set_peft_model_state_dict(wrapped, {**own, **stored})
    return wrapped


def _name_modules(config: PeftConfig, stored: Mapping[str, Tensor], directory: Path) -> None:
    """Name the modules that the file has tensors of, where peft would match expressions, in place.

    An expression of a stranger's could take longer than anyone lives (CWE-1333).
    """
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field, None) or ():
            if not _PLAIN.fullmatch(pattern):
                raise ModelError(
                    f"The adapter {directory} has an expression in {field}: {pattern[:100]!r}",
                    "Name the modules themselves in adapter_config.json",
                )
    if hasattr(config, "target_modules"):
        tensors = [name.removeprefix(_WRAPPED).partition(_OF_LORA) for name in stored]
        config.target_modules = {module for module, found, _ in tensors if found}
        for field in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            if hasattr(config, field):
                setattr(config, field, None)


def _check_same(
    model: PreTrainedModel,
    own: Mapping[str, Tensor],
    stored: Mapping[str, Tensor],
    heads: Collection[str],
    directory: Path,
) -> None:
    """Refuse a file that has other tensors than an adapter of this model; a head may be absent."""
    needed = {name for name in own if not any(f".{head}." in name for head in heads)}
    for name in sorted((stored.keys() - own.keys()) | (needed - stored.keys())):
        what = "has" if name in stored else "lacks"
        raise ModelError(
            f"The adapter {directory} {what} {name}, unlike one of {type(model).__name__}",
            "Merge it into its own model with peft's `merge_and_unload`, and begin from that",
        )
    for name, tensor in stored.items():
        if tensor.shape != own[name].shape:
            raise ModelError(
                f"The adapter {directory} has {name} as {list(tensor.shape)}, and the model wants "
                f"{list(own[name].shape)}",
                "Name the model that it was made for, and of a classifier as many labels",
            )


def unwrap_saved_modules(model: PreTrainedModel) -> list[str]:
    """Put the copies that peft trains in the place of its wrappers, in place; give their names."""
    names = [name for name, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    for name in names:
        wrapper = model.get_submodule(name)
        assert isinstance(wrapper, ModulesToSaveWrapper)
        model.set_submodule(name, wrapper.modules_to_save[ADAPTER])
    return names
