"""The classes that a user asks for, and those of the head that a model brings."""

import re
from collections.abc import Callable, Collection, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.tasks.architecture import brings_head
from edgefuse_export.tasks.task import ModelFacts
from edgefuse_runtime.tasks.labels import LabelIndex, OfRows, labels_of_rows, read_labels
from edgefuse_runtime.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Labels: TypeAlias = Sequence[str] | frozenset[str] | PathLike[str] | str | int | None
"""Names of classes in the order of the logits, a set of the labels that rows have, a file of
either, or a count of classes called 0, 1, 2 …; None for the head's own."""

Arrange: TypeAlias = Callable[[Collection[str]], list[str]]
"""Puts the labels that rows have in the order of a new head."""

LABELS_HELP = "The classes: labelled rows (train.jsonl) or a .txt, one a line in order."
NUM_LABELS_HELP = "Count of classes called 0, 1, 2 …, instead of --labels."

NEW_HEAD = "save its encoder alone, which gets a new head: `model.base_model.save_pretrained(…)`"
"""What to do about a head that does not fit."""

_LISTED = 12


def by_name(labels: Collection[str]) -> list[str]:
    """Sort labels as people do: whole numbers by their value."""
    if all(label.isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def find_labels(
    facts: ModelFacts,
    labels: Labels,
    num_labels: int | None,
    task: type[Task],
    *,
    of_rows: OfRows = labels_of_rows,
    arrange: Arrange = by_name,
) -> list[str]:
    """Names of the classes, in the order of the logits, of a task with labels.

    Args:
        facts: What is known of the model.
        labels: The option of that name.
        num_labels: The option of that name.
        task: Kind of the task.
        of_rows: Reads the labels that rows have.
        arrange: Puts labels that rows have in the order of a new head.

    Raises:
        InputError: Both options are given, one does not hold, or neither is where it is needed.
        DataError: The file cannot be read.
        ModelError: The labels do not say which of the head's classes they are.
    """
    given = _given(labels, num_labels, of_rows)
    if given is None and brings_head(facts.config, task):
        return _names_or_numbers(own_labels(facts.config))
    if given is None and facts.tokenizer is None:
        given = ["0", "1"]
    if given is None:
        raise InputError(
            "The classes are not known",
            "Name labelled rows with --labels train.jsonl, or give --num-labels N",
        )
    return choose_labels(facts.config, given, facts.name, task, arrange=arrange)


def _names_or_numbers(own: list[str]) -> list[str]:
    """Names of a head's classes; their numbers where nobody named them."""
    if all(re.fullmatch(r"LABEL_\d+", name) for name in own):
        return [str(index) for index in range(len(own))]
    return own


def _given(
    labels: Labels, count: int | None, of_rows: OfRows
) -> Sequence[str] | frozenset[str] | None:
    if labels is not None and count is not None:
        raise InputError("--labels and --num-labels say the same thing twice", "Give one of them")
    if isinstance(labels, int):
        labels, count = None, labels
    if count is not None:
        if count < 2:
            raise InputError(f"{count} classes leave nothing to learn", "Give at least 2")
        return [str(index) for index in range(count)]
    if labels is None:
        return None
    if isinstance(labels, str | PathLike):
        return read_labels(Path(labels), of_rows)
    if len(labels) < 2:
        raise InputError(f"{len(labels)} classes leave nothing to learn", "Give at least 2")
    if len(set(labels)) < len(labels):
        raise InputError("A class is named twice", "Give each class a name of its own")
    return labels


def choose_labels(
    config: "PretrainedConfig",
    given: Sequence[str] | frozenset[str],
    name: str,
    task: type[Task],
    *,
    arrange: Arrange = by_name,
) -> list[str]:
    """Names of the classes, in the order of the logits.

    The order of a new head is free. Of a head that the model brings it is fixed: names that the
    head knows, in whatever case, are the head's own; whole numbers are indices of its classes.
    Another list of names is taken as its order, for somebody wrote it so; a set has no order.

    Args:
        config: Configuration of the model.
        given: Names that somebody ordered, or a set of labels that rows have.
        name: Name of the model, for messages.
        task: Kind of the task.
        arrange: Puts labels that rows have in the order of a new head.

    Raises:
        ModelError: The labels do not say which of the head's classes they are.
    """
    if not brings_head(config, task):
        return list(given) if isinstance(given, Sequence) else arrange(given)
    own = own_labels(config)
    if isinstance(given, Sequence) and len(given) != len(own):
        raise _misfit(name, own, given)
    index = LabelIndex(own)
    places = [index.find(label) for label in given]
    if None not in places:
        return own
    numbered = [str(number) for number in range(len(own))]
    if set(given) <= set(numbered) and not any(label.isdecimal() for label in own):
        return numbered
    in_order = all(place in (None, position) for position, place in enumerate(places))
    if isinstance(given, Sequence) and in_order:
        return list(given)
    raise _misfit(name, own, by_name(given))


def head_options(labels: Sequence[str], **others: object) -> dict[str, Any]:
    """Options of transformers for a head with these labels."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        **others,
    }


def own_labels(config: "PretrainedConfig") -> list[str]:
    """Names of the classes of the head that a model brings, in the order of the logits."""
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    return [names[index] for index in sorted(names)]


def _misfit(name: str, own: Sequence[str], given: Sequence[str]) -> ModelError:
    head = f"{name} was saved with a head for {len(own)} classes"
    if len(own) != len(given):
        return ModelError(
            f"{head} ({_listed(own)}), and {len(given)} are given ({_listed(given)})",
            f"Name those, or {NEW_HEAD}",
        )
    return ModelError(
        f"{head} ({_listed(own)}), and others are given ({_listed(given)})",
        "Name the head's classes in id2label of its config.json, or give `edgefuse export` their "
        f"names in the head's order, one a line: --labels labels.txt; or {NEW_HEAD}",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
