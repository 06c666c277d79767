"""The page about reliability names every scenario and explains every column, and takes a table in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.figures import Figures
from tests.chaos.registry import scenarios
from tests.chaos.report import COLUMNS, catalogue, table, write_table

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
FIGURES = [
    Figures("a-scenario", "sqlite", 7, kills=3, rows=500, extra=4, in_flight=6, seconds=12.5),
    Figures("a-scenario", "postgresql", 7, kills=2, rows=400, extra=1, in_flight=1, seconds=7.5),
]


def test_the_page_lists_exactly_the_scenarios_that_there_are() -> None:
    assert catalogue(list(scenarios().values())) in PAGE.read_text(), (
        "put the list into the page: python -m tests.chaos --list --write docs/reliability.md"
    )


def test_the_page_explains_every_column_of_the_table() -> None:
    explained = [line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    missing = [name for name in COLUMNS if name not in ("scenario", "database") and name not in explained]
    assert not missing


def test_a_table_ends_with_the_sums_of_its_columns() -> None:
    last = [cell.strip() for cell in table(FIGURES).splitlines()[-1].strip("|").split("|")]
    assert dict(zip(COLUMNS, last, strict=True)) == {
        **dict.fromkeys(COLUMNS, "0"),
        "scenario": "all 2 runs",
        "database": "",
        "kills": "5",
        "rows": "900",
        "extra calls": "5",
        "in flight": "7",
        "s": "20.0",
    }


def test_writing_a_table_replaces_the_old_one_and_keeps_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- chaos: begin -->\nold\n<!-- chaos: end -->\nafter\n")
    write_table(page, FIGURES, 'make chaos ARGS="--seed 7"')
    text = page.read_text()
    assert "old" not in text
    assert table(FIGURES) in text
    assert '`make chaos ARGS="--seed 7"` on ' in text
    assert text.startswith("before\n<!-- chaos: begin -->\n")
    assert text.endswith("\n<!-- chaos: end -->\nafter\n")


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(ValueError, match="has no <!-- chaos: begin -->"):
        write_table(page, FIGURES, "make chaos")
