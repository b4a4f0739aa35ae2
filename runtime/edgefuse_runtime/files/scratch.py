"""Where files without a name may lie that are too large for memory."""

import os
import tempfile
from pathlib import Path


def scratch_folder() -> Path:
    """A folder on a disk: systems that hold `/tmp` in memory have `/var/tmp` for what is large."""
    large = Path("/var/tmp")  # noqa: S108 - the file in it has no name
    if "TMPDIR" not in os.environ and os.access(large, os.W_OK):
        return large
    return Path(tempfile.gettempdir())
