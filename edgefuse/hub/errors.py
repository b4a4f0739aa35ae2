"""Exceptions of libraries, turned into errors of EdgeFuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from edgefuse_devices.errors import EdgeFuseError, ModelError

CHECK_FILES = "Check the directory, or download the model again"


@contextmanager
def translate_errors(subject: str, hint: str = CHECK_FILES) -> Iterator[None]:
    """Turn any exception into a ModelError that quotes the exception's first line.

    Libraries raise exceptions of every type for a broken file. An exception of EdgeFuse's own code
    would be taken for the user's mistake, so only calls of libraries belong inside.

    Args:
        subject: Name of what is being loaded, with which the sentence begins.
        hint: What to do about a broken file.
    """
    try:
        yield
    except (EdgeFuseError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
        if isinstance(error, UnpicklingError):  # torch's text is advice, and bad
            reason = "its weights are no file that torch wrote, or broken"
        if isinstance(error, ImportError):
            hint = "Install what is missing"
        raise ModelError(f"{subject} cannot be loaded: {reason}", hint) from error
