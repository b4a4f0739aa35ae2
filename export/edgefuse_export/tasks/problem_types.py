"""The option by which a task is told which of its problems the rows are."""

from typing import Any

from edgefuse_devices.options import option

_HELP = (
    "What rows teach: single-label, multi-label or regression for text-classification, ranking or "
    "regression for sentence-similarity."
)


def problem_type_option() -> Any:
    """The option `problem_type`, the same in every task that has it: a text, or None."""
    return option(None, help=_HELP, shown="what the model or the rows say")
