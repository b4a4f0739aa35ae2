"""All tasks as a user may ask for them, and the choice of one by its name and options.

`edgefuse export --help` reads the options of all: a task's file imports torch and transformers
inside functions.
"""

from collections.abc import Mapping
from pathlib import Path

from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_devices.options import keyword_of, make, options_of, refuse_options
from edgefuse_export.tasks.question_answering import WantedQuestionAnswering
from edgefuse_export.tasks.sentence_similarity import WantedSentenceSimilarity
from edgefuse_export.tasks.task import WantedTask
from edgefuse_export.tasks.text2text_generation import WantedText2TextGeneration
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_export.tasks.text_generation import WantedTextGeneration
from edgefuse_export.tasks.token_classification import WantedTokenClassification
from edgefuse_runtime.tagged import name_of

WANTED_TASKS: tuple[type[WantedTask], ...] = (
    WantedTextClassification,
    WantedTokenClassification,
    WantedTextGeneration,
    WantedSentenceSimilarity,
    WantedQuestionAnswering,
    WantedText2TextGeneration,
)

DEFAULT = WantedTextClassification.name


def find_task(name: str | WantedTask, options: Mapping[str, object] | None = None) -> WantedTask:
    """Make the task of a name and its options.

    Args:
        name: The task's name or its synonym, as optimum has them; or a task, which is given back.
        options: Values by the options' names; None stands for the default.

    Raises:
        InputError: It is none of `WANTED_TASKS`, or an option is another task's.
    """
    if isinstance(name, WantedTask):
        refuse_options({k: v for k, v in (options or {}).items() if v is not None}, name)
        return name
    found = {kind.name: kind for kind in WANTED_TASKS}
    kind = found.get(name) or found.get(_without_synonym(name))
    if kind is None:
        raise InputError(*unknown("task", name, found))
    return make(kind, options or {}, choice=f"--task {name}")


def likely_task(model: Path) -> str:
    """Name of the task that a model was saved for, or else of the first that it can be given.

    Args:
        model: Directory of the model.
    """
    from transformers import AutoConfig

    from edgefuse_export.tasks.architecture import likely_task as of_configuration

    found = of_configuration(AutoConfig.from_pretrained(model, trust_remote_code=False))
    return name_of(found) if found else DEFAULT


def task_keywords() -> frozenset[str]:
    """Names of the options of all tasks."""
    return frozenset(
        keyword_of("", option.name) for kind in WANTED_TASKS for option in options_of(kind)
    )


def _without_synonym(name: str) -> str:
    from optimum.exporters.tasks import TasksManager

    return str(TasksManager.map_from_synonym(name))
