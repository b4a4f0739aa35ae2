"""Parameters that get no gradient, and operators that have none, found before anything is traced.

torch's reverse mode on a traced program fails at the first parameter that the loss does not depend
on, and names none.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn, zeros_like
from torch._C import DisableTorchFunctionSubclass
from torch.autograd import grad
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves

from edgefuse_devices.errors import ModelError
from edgefuse_export.places import listed, places_of, running_modules
from edgefuse_export.silence import silence
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import TRACED_SHAPE, example


def freeze_without_gradient(task: ExportTask, model: nn.Module, *, vocabulary: int) -> list[str]:
    """Freeze the trained parameters that the loss does not depend on, in place.

    torch's optimizers leave such a parameter as it is, so that freezing it changes no training.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode.
        vocabulary: Token ids are below it.

    Returns:
        Names of the parameters that were frozen, in the model's order.

    Raises:
        ModelError: The model does not compute the task; operators between trained parameters and
            the loss have no gradient; or the loss depends on nothing that trains.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batch = tuple(example(task, TRACED_SHAPE, vocabulary=vocabulary).values())
    model.zero_grad()
    loss = _loss(task, model, batch)
    if loss.requires_grad:
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise _refusal(task, model, batch, error) from error
    unused = [name for name, parameter in trained.items() if parameter.grad is None]
    model.zero_grad()
    if len(unused) == len(trained):
        raise ModelError(
            f"The loss of {task.task.name} depends on nothing that would train: {listed(unused)}",
            "Choose another way of tuning: `edgefuse plan` lists those that the model can take",
        )
    for name in unused:
        trained[name].requires_grad = False
    return unused


def _loss(task: ExportTask, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    try:
        with silence("transformers"):
            loss: Tensor = task.loss(model)(*batch)[0]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        places = places_of(error, model)
        raise ModelError(
            f"{type(model).__name__} does not compute {task.task.name}: {reason}"
            + (f" (in {listed(places)})" if places else ""),
            "Check that the model runs in transformers on token ids and a mask alone",
        ) from error
    return loss


def _refusal(
    task: ExportTask, model: nn.Module, batch: Sequence[Tensor], error: RuntimeError
) -> ModelError:
    """All operators without a gradient, with the modules that they are in."""
    found: dict[str, list[str]] = {}
    with running_modules(model) as running:

        def note(operator: str) -> None:
            found.setdefault(operator, []).append(next(filter(None, reversed(running)), "the loss"))

        with _UnknownGradients(note):
            task.loss(model)(*batch)
    if not found:
        found[str(error).strip().splitlines()[0].rstrip(".")] = []
    operators = [
        f"{name} in {listed(places)}" if places else name for name, places in found.items()
    ]
    return ModelError(
        f"{type(model).__name__} has operators without a gradient: {'; '.join(operators)}",
        "Train only what is above them, by --tune head for one, or use another model",
    )


class _UnknownGradients(TorchFunctionMode):
    """Tells of every function of torch whose result has a gradient that cannot be computed."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if _is_trained(leaf)]
        for leaf in filter(_is_trained, tree_leaves(result) if given else ()):
            with DisableTorchFunctionSubclass():
                try:
                    grad(leaf, given, zeros_like(leaf), retain_graph=True, allow_unused=True)
                except RuntimeError:
                    self._note(resolve_name(func) or str(func))
        return result


def _is_trained(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad
