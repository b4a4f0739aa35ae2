"""What peft's models have around the model's own modules, taken off again."""

from peft.utils import ModulesToSaveWrapper
from transformers import PreTrainedModel

ADAPTER = "default"
"""What peft calls an adapter that nobody named."""


def unwrap_saved_modules(model: PreTrainedModel) -> list[str]:
    """Put the copies that peft trains in the place of its wrappers, in place, and name them."""
    names = [name for name, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    for name in names:
        wrapper = model.get_submodule(name)
        assert isinstance(wrapper, ModulesToSaveWrapper)
        model.set_submodule(name, wrapper.modules_to_save[ADAPTER])
    return names
