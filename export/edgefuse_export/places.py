"""Where in a model something happens: modules by their names, for messages."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

_LISTED = 6


def listed(names: Iterable[str]) -> str:
    """Names with commas between, each once; the count of those beyond the sixth."""
    own = list(dict.fromkeys(names))
    rest = f" and {len(own) - _LISTED} more" if len(own) > _LISTED else ""
    return ", ".join(own[:_LISTED]) + rest


def places_of(error: BaseException, model: nn.Module) -> list[str]:
    """Names of the modules in which an error was raised, or of those that are built like it.

    Args:
        error: The error, with its traceback.
        model: The model that was run.

    Returns:
        The innermost module of the traceback, and all others of its class; none where no module of
        the model was running.
    """
    names = {id(module): name for name, module in model.named_modules() if name}
    innermost: nn.Module | None = None
    for frame in _frames(error):
        running = frame.f_locals.get("self")
        if isinstance(running, nn.Module) and id(running) in names:
            innermost = running
    if innermost is None:
        return []
    return [name for name, module in model.named_modules() if type(module) is type(innermost)]


@contextmanager
def running_modules(model: nn.Module) -> Iterator[list[str]]:
    """Watch which modules of a model are running.

    Yields:
        Names of the modules that are running, the outermost first; it changes as they run.
    """
    names = {id(module): name for name, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, _: object) -> None:
        running.append(names.get(id(module), ""))

    def leave(*_: object) -> None:
        running.pop()

    hooks = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Frames of an error's traceback and of what caused it, the outermost first."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for one in chain:
        traceback: TracebackType | None = one.__traceback__
        while traceback is not None:
            yield traceback.tb_frame
            traceback = traceback.tb_next
