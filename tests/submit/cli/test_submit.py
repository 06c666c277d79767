"""`submit`: what it prints where, and what it says of a file that it refuses or finds again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from models.database import Database
from tests.submit.cli.reading import Cli, loaded
from tests.worker_by_hand import WorkerByHand


def test_submit_prints_only_the_batch_id_on_stdout(cli: Cli, prompts: Path) -> None:
    first = cli("submit", prompts)
    assert (first.returncode, first.stdout) == (0, "1\n")
    assert "4 jobs, enqueued" in first.stderr
    again = cli("submit", prompts)
    assert (again.returncode, again.stdout) == (0, "1\n")
    assert "found, and goes on" in again.stderr


def test_submit_json_is_documented(command: Cli, prompts: Path) -> None:
    assert loaded(command("submit", prompts, "--json")) == {"batch_id": 1, "total": 4, "found": "new", "warnings": []}


def test_submit_takes_stdin(tmp_path: Path, environment: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-P", "-m", "truckllm", "submit", "-"],
        input='{"prompt": "hi", "model": "gpt-4o"}\n',
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "1\n")


def test_bad_lines_end_with_2_and_one_message_a_cause(command: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "fine", "model": "gpt-4o"}\n' + "{\n" * 25)
    run = command("submit", path)
    assert (run.returncode, run.stdout) == (2, "")
    lines = run.stderr.splitlines()
    assert "25 of 26 lines" in lines[0]
    assert "nothing was enqueued" in lines[0]
    assert lines[1].startswith("  25 lines (2, 3, 4, 5, 6, …): truncated: ")
    assert len(lines) == 2
    error = json.loads(command("submit", path, "--json").stdout)["error"]
    assert [(cause["count"], cause["lines"]) for cause in error["causes"]] == [(25, [2, 3, 4, 5, 6])]
    assert loaded(command("status", "--json")) == {"batches": []}


def test_other_options_conflict_and_new_forces(command: Cli, prompts: Path) -> None:
    assert command("submit", prompts).returncode == 0
    other = command("submit", prompts, "--limit", 2)
    assert other.returncode == 2
    assert "batch 1" in other.stderr
    assert command("submit", prompts, "--limit", 2, "--new").stdout == "2\n"


def test_one_job_is_one_job(command: Cli, write_lines: Callable[..., Path]) -> None:
    run = command("submit", write_lines([{"prompt": "hi", "model": "gpt-4o"}]))
    assert "batch 1: 1 job, enqueued" in run.stderr
    assert "batch 1: 1 job cancelled" in command("cancel", 1).stderr


def finish(database: Database) -> None:
    worker = WorkerByHand(database)
    for job in worker.claim(100):
        worker.succeed(job, cost_nanos=1_500_000)


def test_a_finished_file_with_other_options_is_paid_again_and_that_is_said(
    command: Cli, prompts: Path, stored: Database
) -> None:
    command("submit", prompts, "--limit", 3)
    finish(stored)
    run = command("submit", prompts)
    assert run.stdout == "2\n"
    assert (
        "batch 1 did this input already with other options (limit: 3; now no limit) (3 succeeded, 0 failed, 0.0045 USD)"
        in run.stderr
    )
    finish(stored)
    same = command("submit", prompts, "--limit", 3)
    assert same.stdout == "1\n"
    assert "batch 1: 3 jobs, completed before, so nothing was enqueued" in same.stderr
    new = command("submit", prompts, "--limit", 3, "--new")
    assert new.stdout == "3\n"
    assert "batch 1 did this input already (3 succeeded" in new.stderr


def test_name_and_priority_of_a_batch_that_is_found_stay_and_that_is_said(command: Cli, prompts: Path) -> None:
    command("submit", prompts, "--priority", 2)
    again = loaded(command("submit", prompts, "--priority", 5, "--name", "urgent", "--json"))
    assert again["batch_id"] == 1
    assert again["warnings"] == [
        "batch 1 was there already and keeps priority 2: `truckllm priority 1 5` changes it",
        "batch 1 was there already and keeps its name, 'prompts.jsonl'",
    ]
    assert loaded(command("submit", prompts, "--priority", 2, "--json"))["warnings"] == []
