"""`results`: where they go, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

from models.database import Database
from tests.submit.cli.reading import Cli, loaded, worked_on
from tests.worker_by_hand import WorkerByHand


def test_results_so_far_and_final(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    so_far = command("results", 1)
    assert so_far.returncode == 0
    assert "1 not done yet" in so_far.stderr
    lines = prompts.with_name("prompts.partial.jsonl").read_text().splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["succeeded", "succeeded", "failed", "queued"]
    printed = command("results", 1, "-o", "-")
    assert printed.stdout.splitlines() == lines
    assert loaded(command("results", 1, "-o", "x.jsonl", "--json")) == {
        "path": "x.jsonl",
        "lines": 4,
        "succeeded": 2,
        "failed": 1,
        "cancelled": 0,
        "unfinished": 1,
    }


def test_results_that_go_elsewhere_say_so(command: Cli, prompts: Path, stored: Database) -> None:
    taken = prompts.with_name("prompts.results.jsonl")
    taken.write_text("another's\n")
    command("submit", prompts)
    worker = WorkerByHand(stored)
    for job in worker.claim(4):
        worker.succeed(job)
    run = command("results", 1)
    assert run.returncode == 0
    assert f"{taken} holds other answers and stays as it is" in run.stderr
    assert "prompts.batch-1.results.jsonl: 4 lines" in run.stderr
    assert taken.read_text() == "another's\n"
