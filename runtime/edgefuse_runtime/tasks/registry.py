"""All tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks.question_answering import QuestionAnswering
from edgefuse_runtime.tasks.sentence_similarity import SentenceSimilarity
from edgefuse_runtime.tasks.task import Converses, Figure, NoOptions, Task
from edgefuse_runtime.tasks.text2text_generation import Text2TextGeneration
from edgefuse_runtime.tasks.text_classification import TextClassification
from edgefuse_runtime.tasks.text_generation import TextGeneration
from edgefuse_runtime.tasks.token_classification import TokenClassification

TASKS: tuple[type[Task], ...] = (
    TextClassification,
    TokenClassification,
    TextGeneration,
    SentenceSimilarity,
    QuestionAnswering,
    Text2TextGeneration,
)

CONVERSING_TASKS = [task for task in TASKS if issubclass(task, Converses)]


def figures_of(task: str) -> tuple[Figure, ...]:
    """Every figure of merit that a task may give; none of a task not known here.

    Args:
        task: Name of the task, as reports have it.
    """
    return next((kind.figures for kind in TASKS if name_of(kind) == task), ())


def primary_of(kinds: Sequence[Figure], figures: Mapping[str, float]) -> Figure:
    """The figure by which the best epoch is chosen.

    Args:
        kinds: The `figures` of a task.
        figures: What the task's metric gave.
    """
    return next(kind for kind in kinds if kind.name in figures)


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


def evaluation_options_of(task: Task | type[Task]) -> type[Any]:
    """The class of a task's options of `evaluate`."""
    found: type[Any] = getattr(task, "evaluation_options", NoOptions)
    return found
