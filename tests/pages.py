"""Reading the documentation: its pages, their sections, tables and blocks. It judges nothing; tests do."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

Rows = dict[str, list[str]]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def section(text: str, title: str) -> str:
    """The text below a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n", text, re.MULTILINE)
    assert found, f"there is no section {title!r}"
    rest = text[found.end() :]
    end = re.search(r"^#+ ", rest, re.MULTILINE)
    return rest[: end.start() if end else None]


def tables(text: str) -> dict[str, Rows]:
    """Tables by the name of their first column; rows by each name in the first cell, with the other cells."""
    found: dict[str, Rows] = {}
    rows: Rows | None = None
    for line in text.splitlines():
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if rows is None:
            rows = found.setdefault(cells[0], {})
        elif not set(line) <= set("|-: "):
            for name in re.findall(r"`([^`]+)`", cells[0]) or [cells[0]]:
                assert name not in rows, f"{name} stands twice in one table"
                rows[name] = cells[1:]
    return found


def table(text: str, first: str) -> Rows:
    found = tables(text)
    assert first in found, f"there is no table that begins with the column {first!r}"
    return found[first]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
