"""A damaged database is told of with what is damaged in it, by whatever command stumbles over it; numbers that no batch has find none."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.database import Database
from tests.submit.cli.reading import Cli, worked_on

DAMAGED = [
    ("jobs SET position = 'seven' WHERE id = 3", "position (p2)", ("rerun", 1)),
    ("batches SET total = 'seven'", "total", ("status", 1)),
    ("batches SET created_at = x'ff'", "created_at", ("status",)),
    ("batches SET finished_at = 9e999", "finished_at", ("status", 1, "--json")),
]


@pytest.mark.parametrize(("change", "column", "asked"), DAMAGED, ids=[column for _, column, _ in DAMAGED])
def test_a_command_that_stumbles_over_a_damaged_row_says_which_column_it_is(
    command: Cli, prompts: Path, stored: Database, change: str, column: str, asked: tuple[str, ...]
) -> None:
    command("submit", prompts)
    worked_on(stored)
    with stored.write() as connection:
        connection.exec_driver_sql(f"UPDATE {change}")
    done = command(*asked)
    assert done.returncode == 4, done.stdout + done.stderr
    assert "is damaged: batch 1 has" in done.stderr
    assert column in done.stderr


def test_verify_tells_of_a_batch_whose_number_of_lines_is_none(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    with stored.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET total = 'seven'")
    done = command("verify", 1)
    assert (done.returncode, "no whole number in total" in done.stdout) == (1, True)


@pytest.mark.parametrize("number", [0, 10**20])
def test_a_number_that_no_batch_has_finds_none(command: Cli, number: int) -> None:
    for asked in (("status",), ("jobs",), ("results",), ("rerun",), ("verify",), ("cancel",), ("costs", "--batch")):
        done = command(*asked, number)
        assert (done.returncode, done.stderr) == (
            2,
            f"truckllm: there is no batch {number}; `truckllm status` lists them\n",
        )
