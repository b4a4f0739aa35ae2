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
    """The figures of all problem types, every type's primary one before those of all."""
    kinds = [problem.figures for problem in PROBLEMS.values()]
    primary = [figures[0] for figures in kinds]
    others = {figure.name: figure for figures in kinds for figure in figures[1:]}
    return (*primary, *others.values())
