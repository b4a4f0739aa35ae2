"""All tasks."""

from collections.abc import Mapping

from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks.task import Figure, Task
from edgefuse_runtime.tasks.text_classification import TextClassification

TASKS: tuple[type[Task], ...] = (TextClassification,)


def figures_of(task: str) -> tuple[Figure, ...]:
    """The figures of merit of a task, the primary one first; none of a task not known here.

    Args:
        task: Name of the task, as reports have it.
    """
    return next((kind.figures for kind in TASKS if name_of(kind) == task), ())


def figures_as_text(task: str, figures: Mapping[str, float]) -> dict[str, str]:
    """Figures as people read them: titles and formatted values, in the task's order.

    Args:
        task: Name of the task, as reports have it.
        figures: Values by the figures' names.
    """
    return {
        figure.title: figure.text(figures[figure.name])
        for figure in figures_of(task)
        if figure.name in figures
    }
