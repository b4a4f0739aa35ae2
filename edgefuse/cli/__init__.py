"""The command line: a file for each command, which parses, calls a plain function and shows.

May import the names of `edgefuse` and `edgefuse_runtime`, `report`, `demo` and `edgefuse_devices`,
with the few exceptions that `tests/unit/test_api.py` lists. Nothing imports it.
"""

from edgefuse.cli._app import main

__all__ = ["main"]
