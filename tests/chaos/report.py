"""Shows figures as a table, and writes it into the documentation between its two markers.

It judges nothing.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.figures import Figures
from tests.chaos.registry import Scenario

COLUMNS = {
    "scenario": "scenario",
    "database": "database",
    "kills": "kills",
    "others": "strikes",
    "rows": "rows",
    "lost": "lost",
    "doubled": "doubled",
    "extra calls": "extra",
    "in flight": "in_flight",
    "unexplained": "unexplained",
    "unseen": "unseen",
    "ledger": "ledger_difference",
    "over limit": "over_limit",
    "s": "seconds",
}


def table(all_figures: Sequence[Figures]) -> str:
    """A Markdown table with a last line of sums; it also reads well on a terminal."""
    rows = [[str(getattr(figures, name)) for name in COLUMNS.values()] for figures in all_figures]
    sums = [
        str(round(sum(getattr(figures, name) for figures in all_figures), 1)) for name in list(COLUMNS.values())[2:]
    ]
    rows.append([f"all {len(all_figures)} runs", "", *sums])
    widths = [max(len(head), *(len(row[at]) for row in rows)) for at, head in enumerate(COLUMNS)]

    def line(cells: Sequence[str]) -> str:
        shown = [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(shown)} |"

    rule = (
        "|"
        + "|".join("-" * (width + 2) if at < 2 else "-" * (width + 1) + ":" for at, width in enumerate(widths))
        + "|"
    )
    return "\n".join([line(list(COLUMNS)), rule, *map(line, rows)])


def machine() -> str:
    """Cores, Python and system; no name and no path."""
    python = f"Python {platform.python_version()}"
    return f"{os.cpu_count()} cores ({platform.machine()}), {python}, {platform.system()} {platform.release().split('-')[0]}"


def catalogue(all_scenarios: Sequence[Scenario]) -> str:
    """A Markdown list of what is attacked."""
    return "\n".join(f"* `{one.name}`: {one.promise}" for one in all_scenarios)


def write_catalogue(page: Path, all_scenarios: Sequence[Scenario]) -> None:
    """Puts the list into the page. Raises ValueError when it has no place for it."""
    replace(page, "scenarios", catalogue(all_scenarios))


def write_table(page: Path, all_figures: Sequence[Figures], command: str) -> None:
    """Puts the table into the page, with the command, the day and the machine. Raises ValueError when it has no place for it."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    replace(page, "chaos", f"`{command}` on {day}: {machine()}.\n\n{table(all_figures)}")


def replace(page: Path, name: str, content: str) -> None:
    """Replaces what stands between the two markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page} has no {begin} … {end}")
    page.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")
