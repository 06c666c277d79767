"""`jobs`: what is listed, and how."""

from __future__ import annotations

import json
from pathlib import Path

from models.database import Database
from models.store import jobs as job_store
from tests.submit.cli.reading import Cli, loaded, worked_on
from tests.worker_by_hand import WorkerByHand


def test_jobs_are_listed_in_input_order_and_by_status(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    found = loaded(command("jobs", 1, "--json"))["jobs"]
    assert [(job["id"], job["status"]) for job in found] == [
        ("p0", "succeeded"),
        ("p1", "succeeded"),
        ("p2", "failed"),
        ("p3", "queued"),
    ]
    (failed,) = loaded(command("jobs", 1, "--status", "failed", "--json"))["jobs"]
    assert failed["error"] == {"code": "bad_request", "message": "it can't do that"}
    assert (failed["position"], failed["lane"], failed["provider"], failed["attempts"]) == (2, "openai", "openai", 1)
    text = command("jobs", 1, "--limit", 3)
    assert "bad_request: it can't do that" in text.stdout
    assert "--limit shows more than 3, and --after 2 the next" in text.stderr
    rest = loaded(command("jobs", 1, "--after", 2, "--json"))
    assert ([job["id"] for job in rest["jobs"]], rest["next_after"]) == (["p3"], None)
    assert loaded(command("jobs", 1, "--limit", 3, "--json"))["next_after"] == 2


def test_jobs_that_wait_for_a_time_are_listed_by_the_state_that_is_shown(
    command: Cli, prompts: Path, stored: Database
) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    held = {job.id: job.epoch for job in worker.claim(1)}
    with stored.write() as connection:
        job_store.give_back(connection, held, not_before=4e9)
    (snoozed,) = loaded(command("jobs", 1, "--status", "snoozed", "--json"))["jobs"]
    assert (snoozed["id"], snoozed["status"], snoozed["not_before"]) == ("p0", "queued", "2096-10-02T07:06:40Z")
    assert "snoozed" in command("jobs", 1, "--status", "snoozed").stdout
    assert len(loaded(command("jobs", 1, "--status", "queued", "--json"))["jobs"]) == 4
    assert "batch 1 has no failed jobs" in command("jobs", 1, "--status", "failed").stderr


def test_failed_lines_are_written_as_an_input_that_is_taken(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    run = command("jobs", 1, "--export-failed", "failed.jsonl")
    assert (run.returncode, run.stdout) == (0, "")
    assert "failed.jsonl holds 1 failed line of batch 1" in run.stderr
    target = prompts.parent / "failed.jsonl"
    original = {json.loads(line)["id"]: line for line in prompts.read_text().splitlines()}
    assert target.read_text().splitlines() == [original["p2"]]
    assert loaded(command("submit", "failed.jsonl", "--json"))["total"] == 1
    piped = command("jobs", 1, "--export-failed", "-")
    assert piped.stdout.splitlines() == [original["p2"]]
    assert not (prompts.parent / "-").exists()
    refused = command("jobs", 1, "--export-failed", prompts)
    assert refused.returncode == 2
    assert "is the batch's input" in refused.stderr
    none = command("jobs", 2, "--export-failed", "none.jsonl")
    assert none.returncode == 2
    assert not (prompts.parent / "none.jsonl").exists()


def test_the_prompt_stands_beside_the_error(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    (failed,) = loaded(command("jobs", 1, "--status", "failed", "--json"))["jobs"]
    asked = {json.loads(line)["id"]: json.loads(line)["prompt"] for line in prompts.read_text().splitlines()}
    assert failed["prompt"] == asked["p2"]
    assert asked["p2"] in command("jobs", 1, "--status", "failed").stdout


def test_status_counts_failures_by_code_with_an_example(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    assert loaded(command("status", 1, "--json"))["failures"] == [
        {"code": "bad_request", "number": 1, "id": "p2", "message": "it can't do that"}
    ]
    assert "1 × bad_request, such as p2: it can't do that" in command("status", 1).stdout
