"""Exceptions of libraries as errors of EdgeFuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from edgefuse_devices.errors import EdgeFuseError, ModelError


@contextmanager
def translate_errors(subject: str) -> Iterator[None]:
    """Turn what loading raises into a ModelError that quotes its first line.

    Libraries say of a broken file what they like; so nothing but their calls belongs in here.

    Args:
        subject: What is being loaded.
    """
    try:
        yield
    except (EdgeFuseError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        if isinstance(error, UnpicklingError):  # torch's text is advice, and bad
            reason = "its weights are no file that torch wrote, or broken"
        hint = "Check the directory, or download the model again"
        if isinstance(error, ImportError):
            hint = "Install what is missing"
        raise ModelError(f"{subject} cannot be loaded: {reason}", hint) from error
