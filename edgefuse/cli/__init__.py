"""The command line: a file a command, each thin over a plain function."""

from edgefuse.cli._app import main

__all__ = ["main"]
