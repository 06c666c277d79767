"""`costs`: three formats of one report."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.database import Database
from models.tables import attempts
from tests.submit.cli.reading import Cli, loaded, worked_on


def test_costs_in_three_formats(command: Cli, prompts: Path, stored: Database, tmp_path: Path) -> None:
    assert command("costs").stdout == "no calls have been made yet\n"
    command("submit", prompts)
    worked_on(stored)
    table = command("costs").stdout
    assert "0.0015 USD" in table
    assert "UNPRICED: 1 call used 15 tokens" in table
    tree = loaded(command("costs", "--by", "provider,key", "--format", "json"))
    assert (tree["rows"][0]["key"], tree["rows"][0]["cost"], tree["rows"][0]["calls"]) == ("oa-1", "0.0015", 3)
    assert loaded(command("costs", "--json"))["by"] == ["provider", "model"]
    assert command("costs", "--batch", 1, "--format", "csv", "-o", "costs.csv").returncode == 0
    (row,) = csv.DictReader(io.StringIO((tmp_path / "costs.csv").read_text()))
    assert (row["provider"], row["model"], row["cost"]) == ("openai", "gpt-4o", "0.0015")
    assert command("costs", "-o", "nowhere/costs.csv").returncode == 4


def test_a_period_holds_its_first_moment_and_not_its_last(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    with stored.write() as connection:
        connection.execute(sa.update(attempts).values(started_at=1769817600.0))  # 2026-01-31T00:00:00Z
    calls = {
        arguments: len(loaded(command("costs", "--json", *arguments))["rows"])
        for arguments in (
            ("--since", "2026-01-31"),
            ("--since", "2026-01-31T00:00:01Z"),
            ("--until", "2026-01-31"),
            ("--until", "2026-01-31T01:00:01+01:00"),
            ("--since", "2026-01-31", "--until", "2026-02-01", "--by", "metadata.none"),
        )
    }
    assert list(calls.values()) == [1, 0, 0, 1, 1]
    assert command("costs", "--until", "2026-01-31").stdout == "no calls were made in this period\n"


@pytest.mark.parametrize("arguments", [("--since", "yesterday"), ("--since", "2026-02-01", "--until", "2026-02-01")])
def test_a_period_that_is_none_is_refused(command: Cli, arguments: tuple[str, ...]) -> None:
    run = command("costs", *arguments)
    assert run.returncode == 2
    assert arguments[1] in run.stderr
