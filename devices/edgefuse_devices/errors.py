"""Every error that EdgeFuse raises on purpose.

EdgeFuseError
├── InputError              the user can mend it: the command line exits with 2
│   ├── DeviceError         an unknown board, or an invalid profile
│   ├── ModelError          a model that is not there, is none, or has no MLP that we know
│   ├── DataError           a row of a data file, named by file and line
│   ├── BundleError         a bundle that was cut short, changed, or made by a newer version
│   ├── RunError            a run or a checkpoint that does not fit
│   └── OutputError         an output folder that is not empty, or a disk that is too small
├── Interrupted             Ctrl-C, after what was reached was saved: exits with 130
└── InternalError           a mistake of EdgeFuse's: exits with 1
"""

__all__ = [
    "BundleError",
    "DataError",
    "DeviceError",
    "EdgeFuseError",
    "InputError",
    "InternalError",
    "Interrupted",
    "ModelError",
    "OutputError",
    "RunError",
]

OUT_OF_MEMORY = (
    "there is not enough memory",
    "Close other programs, give --memory or --batch-size less, or export for shorter texts",
)
"""What is wrong, and what to do."""


class EdgeFuseError(Exception):
    """The root: a sentence for what is wrong, and one for what to do next.

    Args:
        problem: The sentence that says what is wrong, without its full stop.
        hint: The sentence that says what to do next.
    """

    exit_code = 1

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(problem, hint)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}. {self.hint}".rstrip() if self.hint else f"{self.problem}."


class InputError(EdgeFuseError):
    """An input that does not fit, which the user can mend."""

    exit_code = 2


class DeviceError(InputError):
    """An unknown board, or an invalid profile."""


class ModelError(InputError):
    """A model that is not there, is no model, or has no MLP that we know."""


class DataError(InputError):
    """A data file, or a row of it, that cannot be used."""


class BundleError(InputError):
    """A bundle that was cut short, changed, or made by a newer version."""


class RunError(InputError):
    """A run or a checkpoint that does not fit."""


class OutputError(InputError):
    """An output folder that is not empty, or a disk that is too small."""


class Interrupted(EdgeFuseError):  # noqa: N818 - it is no failure
    """Ctrl-C, after what was reached was saved."""

    exit_code = 130


class InternalError(EdgeFuseError):
    """A mistake of EdgeFuse's."""
