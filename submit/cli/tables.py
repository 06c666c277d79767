"""Tables for people: columns where they fit, a block for each row where the terminal is too narrow for its figures.

It does not know what it prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 10_000
"""Of a table that goes to a file or a pipe: nothing is cut there."""

_GAP = 2
_LEAST = 8
"""What is cut is cut to so many characters, not to fewer."""


class _Out(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # the command line knows what to do; rich would end with 1


def draw(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[str],
    cut: Sequence[str],
    file: IO[str] | None,
) -> None:
    """As `submit.cli.output.print_table`, of texts."""
    console = _Out(file=file, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    elif _narrowest(columns, rows, cut) > console.width:
        _print_blocks(console, columns, rows)
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in numbers else "left",
            overflow="ellipsis" if name in cut else "fold",
            no_wrap=bool(cut) and name not in cut,
        )
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=name in cut or None) for name, cell in zip(columns, row, strict=True)))
    console.print(table)


def _narrowest(columns: Sequence[str], rows: Sequence[Sequence[str]], cut: Sequence[str]) -> int:
    """How wide a table has to be so that no word of it is broken."""
    width = _GAP * (len(columns) - 1)
    for index, name in enumerate(columns):
        cells = [name, *(row[index] for row in rows)]
        whole = max(map(cell_len, cells))
        if name in cut:
            width += min(whole, max(_LEAST, cell_len(name)))
        elif cut:
            width += whole
        else:
            width += max(cell_len(word) for cell in cells for word in (cell.split() or [""]))
    return width


def _print_blocks(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    names = max(map(cell_len, columns))
    for number, row in enumerate(rows):
        if number:
            console.print()
        for name, cell in zip(columns, row, strict=True):
            if cell:
                console.print(Text(name.ljust(names + _GAP), style="bold") + Text(cell), soft_wrap=True)
