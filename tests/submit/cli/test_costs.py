"""`costs`: three formats of one report."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from models.database import Database
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
