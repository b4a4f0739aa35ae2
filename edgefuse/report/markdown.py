"""Reports as Markdown."""

from collections.abc import Iterable, Sequence

from edgefuse.report.notes import notes
from edgefuse.report.read import NamedReport
from edgefuse.report.table import Table
from edgefuse.report.tables import tables

_SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\|`*_[]<>#"} | dict.fromkeys("\r\n", " "))


def markdown(reports: Sequence[NamedReport]) -> str:
    """Render a page: a table of each kind of report, and notes on each bench."""
    lines = ["# EdgeFuse report", ""]
    for table in tables(reports):
        lines += [f"## {table.title}", "", *markdown_table(table), ""]
    lines += [f"- {_escape(note)}" for note in notes(reports)]
    return "\n".join(lines).rstrip() + "\n"


def markdown_table(table: Table) -> list[str]:
    """Render a table as lines to paste."""
    rows = (map(_escape, row) for row in table.rows)
    return [_row(table.columns), _row("---" for _ in table.columns), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return text.translate(_SPECIAL)
