"""A table, whichever way it is shown: in a terminal, as Markdown or as HTML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table's headings and rows.

    Attributes:
        columns: Headings.
        rows: Rows of as many cells as there are headings, as texts.
        title: What the table shows; may be empty.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    @classmethod
    def of(
        cls, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = ""
    ) -> "Table":
        """Make a table of cells of any type; `str` is applied to each."""
        return cls(columns, [[str(cell) for cell in row] for row in rows], title)

    def is_numeric(self, column: int) -> bool:
        """Whether all cells of a column are numbers, which are aligned on the right."""
        return bool(self.rows) and all(row[column][:1] in "0123456789-+±" for row in self.rows)


__all__ = ["Table"]
