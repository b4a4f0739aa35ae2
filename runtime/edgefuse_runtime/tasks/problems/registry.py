"""All problem types of text classification."""

from collections.abc import Mapping
from typing import Literal

from edgefuse_runtime.tasks.problems.multi_label import MultiLabel
from edgefuse_runtime.tasks.problems.problem import Problem
from edgefuse_runtime.tasks.problems.regression import Regression
from edgefuse_runtime.tasks.problems.single_label import SingleLabel
from edgefuse_runtime.tasks.task import Figure

ProblemName = Literal["single-label", "multi-label", "regression"]

PROBLEMS: Mapping[ProblemName, type[Problem]] = {
    "single-label": SingleLabel,
    "multi-label": MultiLabel,
    "regression": Regression,
}
"""By the name that --problem-type has for them."""


def every_figure() -> tuple[Figure, ...]:
    """The figures of all problem types: the primary ones, then the others, the loss last."""
    kinds = [problem.figures for problem in PROBLEMS.values()]
    others: dict[str, Figure] = {}
    for figure in (figure for figures in kinds for figure in figures[1:]):
        others.pop(figure.name, None)  # what several have in common comes after what they have not
        others[figure.name] = figure
    return (*(figures[0] for figures in kinds), *others.values())
