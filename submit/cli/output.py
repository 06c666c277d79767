"""What commands print: tables for people, JSON for programs, notes on stderr.

It does not know what it prints.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any


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

    On a terminal, what is too long in the columns in `cut` is cut, so that the others stay whole and a row stays one line. On one
    that is too narrow even for that each row is a block of lines: no figure is ever cut or broken.
    """
    from submit.cli import tables  # what draws isn't paid for by those who print JSON

    cells = [["" if value is None else str(value) for value in row] for row in rows]
    tables.draw(columns, cells, numbers=numbers, cut=cut, file=file)


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
