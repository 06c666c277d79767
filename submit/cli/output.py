"""What commands print: tables for people, JSON for programs, notes on stderr.

It does not know what it prints.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 10_000
"""Of a table that goes to a file or a pipe: nothing is cut there."""


def print_json(value: Any) -> None:
    """`value` as indented JSON on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[str] = (),
    cut: Sequence[str] = (),
    file: IO[str] | None = None,
) -> None:
    """Rows under their columns' names on stdout, or in `file`; columns in `numbers` are aligned to the right.

    On a terminal, what is too long in the columns in `cut` is cut, so that the others stay whole and a row stays one line.
    """
    console = Console(file=file)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in numbers else "left",
            overflow="ellipsis" if name in cut else "fold",
            no_wrap=bool(cut) and name not in cut,
        )
    for row in rows:
        cells = zip(columns, ("" if value is None else str(value) for value in row), strict=True)
        table.add_row(*(Text(cell, no_wrap=name in cut or None) for name, cell in cells))
    console.print(table)


def terminal_width() -> int | None:
    """The columns of stdout's terminal; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say(text: str) -> None:
    """A line on stdout, at once: whoever started this may be waiting for it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for people on stderr, so that stdout holds only what was asked for."""
    sys.stderr.write(text + "\n")
