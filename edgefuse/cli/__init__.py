"""The command line: a file for each command, which parses, calls a plain function and shows.

May import everything else in `edgefuse`; nothing imports it.
"""

from edgefuse.cli._app import main

__all__ = ["main"]
