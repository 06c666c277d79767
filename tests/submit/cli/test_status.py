"""`status`: what it shows, and how `--watch` ends."""

from __future__ import annotations

import json
from pathlib import Path

from models.database import Database
from models.store import keys as key_store
from tests.submit.cli.reading import Cli, loaded, worked_on
from tests.worker_by_hand import WorkerByHand


def test_status_shows_what_is_documented(command: Cli, prompts: Path, stored: Database) -> None:
    assert "no batches yet" in command("status").stderr
    command("submit", prompts)
    worked_on(stored)
    one = loaded(command("status", 1, "--json"))
    expected = {"batch_id": 1, "name": "prompts.jsonl", "total": 4, "succeeded": 2, "failed": 1, "cancelled": 0}
    assert expected.items() <= one.items()
    assert {"status": "running", "running": 0, "queued": 1, "blocked": None, "finished_at": None}.items() <= one.items()
    assert one["costs"] == {"USD": 1_500_000}
    assert one["unpriced_tokens"] == 15
    (part,) = one["providers"]
    assert (part["provider"], part["succeeded"], part["failed"], part["calls"]) == ("openai", 2, 1, 3)
    assert loaded(command("status", "--json"))["batches"][0]["batch_id"] == 1
    text = command("status", 1).stdout
    assert "batch 1 running: 3/4 done, 1 failed" in text
    assert "0.0015 USD + 15 tokens UNPRICED" in text
    assert "prompts.jsonl" in command("status").stdout


def test_status_watch_ends_with_the_batch_and_its_exit_code(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    worker = WorkerByHand(stored)
    worker.succeed(worker.claim()[0])
    run = command("status", 1, "--watch", "--json")
    assert run.returncode == 1
    assert json.loads(run.stdout)["status"] == "completed"
    assert "batch 1 completed: 4/4 done, 1 failed" in run.stderr


def test_status_watch_gives_a_blocked_batch_up_with_3(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    with stored.write() as connection:
        key_store.quarantine(
            connection, provider="openai", key_id="oa-1", mark="m", pool="p", reason="refused", now=1.0, until=None
        )
    run = command("status", 1, "--watch")
    assert run.returncode == 3
    assert "no usable key: openai/oa-1: refused" in run.stderr


def test_a_state_folder_that_is_a_file_is_told_instead_of_an_empty_list(command: Cli, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    done = command("status", TRUCKLLM_HOME=str(tmp_path / "state"))
    assert (done.returncode, "is a file" in done.stderr) == (4, True)
