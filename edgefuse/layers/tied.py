"""Weights that several modules share, held by one of them.

Most language models score tokens with their embedding table, and an encoder and its decoder often
read one table. Every holder of such a weight is an input of its own in a traced graph, of which all
but one get no gradient. With one holder it is one input, and the gradients of all uses add up.
"""

from typing import Any

from torch import nn

_HOLDERS = "edgefuse_holders"


def hold_once(model: nn.Module) -> list[str]:
    """Let the first module that has a shared parameter hold it, and the others read it, in place.

    Names of parameters and tensors of the state dict are each one's first afterwards. Copies of the
    model share as the model does.

    Args:
        model: Any module.

    Returns:
        Names that the parameters no longer have.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    first: dict[int, tuple[nn.Module, str]] = {}
    dropped = []
    for name, parameter in [*model.named_parameters(remove_duplicate=False)]:
        path, _, attribute = name.rpartition(".")
        module = modules[path]
        holder, held = first.setdefault(id(parameter), (module, attribute))
        if attribute in module._parameters and (module, attribute) != (holder, held):  # noqa: SLF001
            _read_elsewhere(module, attribute, holder, held)
            dropped.append(name)
    return dropped


def reads_elsewhere(module: nn.Module) -> bool:
    """Whether a module has no weight of its own, but reads another's."""
    return _HOLDERS in module.__dict__


def _read_elsewhere(module: nn.Module, attribute: str, holder: nn.Module, held: str) -> None:
    """Take a parameter out of a module, which reads another's from then on."""
    del module._parameters[attribute]  # noqa: SLF001
    # A tuple, because a module that is an attribute would be a part, with parameters of its own.
    holders = {**module.__dict__.get(_HOLDERS, {}), attribute: (holder, held)}
    module.__dict__[_HOLDERS] = holders
    kind = type(module)
    module.__class__ = type(f"Tied{kind.__name__}", (kind,), {attribute: _reader(attribute)})


def _reader(attribute: str) -> property:
    def read(module: nn.Module) -> Any:
        holder, held = module.__dict__[_HOLDERS][attribute]
        return getattr(holder, held)

    return property(read)
