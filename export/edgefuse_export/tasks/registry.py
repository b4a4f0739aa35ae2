"""All tasks, by their names."""

from collections.abc import Callable
from typing import Any

from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.tasks.text_classification import TextClassificationExport
from edgefuse_runtime.tasks.task import Task

EXPORT_TASKS: dict[str, Callable[[Any], ExportTask]] = {
    "text-classification": TextClassificationExport,
}


def export_task(task: Task) -> ExportTask:
    """The workstation's side of a task."""
    return EXPORT_TASKS[task.name](task)
