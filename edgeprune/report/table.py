"""A table of text, shown as HTML, as Markdown, or by the command line in a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgeprune.report.page import render

NAMES = ("model", "class", "build", "layer")  # columns of names, though somebody calls a class "7"
FIGURE = re.compile(r"([×≤+−-]?\d|–|$)")


@dataclass(frozen=True)
class Table:
    """Cells as people read them.

    Attributes:
        columns: the head; all names empty for a table without one.
        rows: a cell a column.
        naming: how many of the first columns name a row; a screen reader says them before each of its other cells.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    naming: int = 1

    @classmethod
    def of(cls, columns: Iterable[str], rows: Iterable[tuple[str, ...]], naming: int = 1) -> Table:
        """The table of any iterables."""
        return cls(tuple(columns), tuple(rows), naming)

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For every column, whether its cells are figures, or missing: those are aligned to the right."""
        if not self.rows:
            return (False,) * len(self.columns)
        return tuple(
            name not in NAMES and all(FIGURE.match(cell) for cell in cells)
            for name, *cells in zip(self.columns, *self.rows, strict=True)
        )

    def first(self, count: int) -> Table:
        """The same table with no more rows than that."""
        return replace(self, rows=self.rows[:count])

    def without(self, column: str) -> Table:
        """The same table with a column left out."""
        place = self.columns.index(column)
        rows = (row[:place] + row[place + 1 :] for row in self.rows)
        naming = self.naming - (place < self.naming)
        return Table.of(self.columns[:place] + self.columns[place + 1 :], rows, naming)

    def transposed(self) -> Table:
        """The same cells with a row a column: the names of the columns come first."""
        columns, *rows = zip(self.columns, *self.rows, strict=True)
        return Table.of(columns, rows)

    def html(self) -> str:
        """A fragment of HTML; nothing without rows."""
        return render("table", table=self)

    def markdown(self) -> str:
        """A Markdown table with its cells on one line each, in which nothing of a cell is markup of a table or HTML."""
        rule = tuple("---:" if numeric else "---" for numeric in self.numeric)
        lines = (self.columns, rule, *self.rows)
        return "\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)


def _markdown_cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", "\\|").replace("<", "&lt;")
