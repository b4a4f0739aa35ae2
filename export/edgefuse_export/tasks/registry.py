"""All tasks, by their names: each makes, of a task's own options, what a user asks for."""

from collections.abc import Callable

from optimum.exporters.tasks import TasksManager

from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_export.tasks.task import WantedTask
from edgefuse_export.tasks.text_classification import Classes

EXPORT_TASKS: dict[str, Callable[..., WantedTask]] = {"text-classification": Classes.of}


def find_task(name: str) -> Callable[..., WantedTask]:
    """The task of a name.

    Args:
        name: The task's name or its synonym, as optimum has them.

    Raises:
        InputError: It is none of `EXPORT_TASKS`.
    """
    found = EXPORT_TASKS.get(TasksManager.map_from_synonym(name))
    if found is None:
        raise InputError(*unknown("task", name, EXPORT_TASKS.keys()))
    return found
