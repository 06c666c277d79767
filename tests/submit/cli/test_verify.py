"""`verify`, and what people see of a batch whose books don't add up; `rerun` by force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
import zstandard

from models.database import Database
from models.finalizing import ended, finalize
from models.states import BatchStatus
from models.tables import batch_counts, jobs, results
from tests.making import batch_status
from tests.submit.cli.reading import Cli, loaded
from tests.worker_by_hand import WorkerByHand


@pytest.fixture
def answered(command: Cli, prompts: Path, stored: Database) -> None:
    """Batch 1: three answers and a call that ended without a reply, of which nobody knows whether it was billed; all have ended."""
    command("submit", prompts)
    worker = WorkerByHand(stored)
    *won, lost = worker.claim(4)
    for job in won:
        worker.succeed(job, cost_nanos=2_000_000)
    worker.drop(lost)


@pytest.fixture
def broken(answered: None, stored: Database) -> None:
    """The same, with an answer lost before it was finalized."""
    with stored.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET status = 'running', finished_at = NULL")
        connection.execute(results.delete().where(results.c.job_id == 2))
    assert ended(stored, 1)
    assert not finalize(stored, 1)


def test_a_batch_that_adds_up_is_told_with_what_is_maybe_billed(command: Cli, answered: None) -> None:
    done = command("verify", 1)
    assert done.returncode == 0
    assert "jobs: 3 succeeded, 1 failed" in done.stdout
    assert "maybe billed" in done.stdout
    assert "it all adds up" in done.stdout
    found = loaded(command("verify", 1, "--json"))
    assert (found["adds_up"], found["status"], found["total"], found["results"]) == (True, "completed", 4, 3)
    assert found["jobs"] == {"succeeded": 3, "failed": 1}
    assert {calls["outcome"]: calls["calls"] for calls in found["calls"]} == {"succeeded": 3, "unknown": 1}


def test_a_batch_at_work_is_verified_as_it_stands(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    worker.succeed(worker.claim(2)[0])
    done = command("verify", 1)
    assert done.returncode == 0
    assert "it all adds up; 3 jobs to go" in done.stdout


def test_what_does_not_add_up_ends_with_1_and_names_the_rows(command: Cli, broken: None) -> None:
    done = command("verify", 1)
    assert done.returncode == 1
    assert "IT DOESN'T ADD UP" in done.stdout
    assert "no_result: 1 job has succeeded without a result\n    p1\n" in done.stdout
    found = json.loads(command("verify", 1, "--json", "--named", 0).stdout)
    assert not found["adds_up"]
    assert [(one["check"], one["number"], one["custom_ids"]) for one in found["differences"]][0] == ("no_result", 1, [])


def test_status_tells_of_it_and_a_watcher_does_not_wait_for_ever(command: Cli, broken: None) -> None:
    shown = command("status", 1)
    assert "finalizing" in shown.stdout
    assert "`truckllm verify 1` tells more" in shown.stdout
    assert "without a result" in loaded(command("status", 1, "--json"))["problem"]
    assert command("status", 1, "--watch").returncode == 4
    assert command("results", 1, "-o", "-").stdout.count("\n") == 4


@pytest.mark.parametrize("damaged", [b"rubbish", zstandard.compress(b"an answer" * 100)[:-2]])
def test_an_answer_that_is_damaged_is_named_with_the_way_out(
    command: Cli, prompts: Path, stored: Database, damaged: bytes
) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    for job in worker.claim(4):
        worker.succeed(job)
    with stored.write() as connection:
        of_p1 = sa.select(jobs.c.id).where(jobs.c.custom_id == "p1").scalar_subquery()
        connection.execute(results.update().where(results.c.job_id == of_p1).values(response=damaged, text=damaged))
        connection.execute(jobs.update().where(jobs.c.custom_id == "p1").values(custom_id="p $1"))
    run = command("results", 1, "-o", "-")
    assert run.returncode == 4
    assert "`truckllm rerun 1 --status succeeded --id 'p $1' --force`" in run.stderr


def test_a_forced_rerun_of_the_row_mends_it(command: Cli, broken: None, stored: Database) -> None:
    refused = command("rerun", 1, "--status", "succeeded", "--id", "p1")
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert batch_status(stored, 1) == BatchStatus.FINALIZING
    assert command("rerun", 1, "--status", "succeeded", "--id", "p1", "--force").returncode == 0
    worker = WorkerByHand(stored)
    (job,) = worker.claim(4)
    worker.succeed(job, cost_nanos=5_000_000)
    assert command("verify", 1, "--recount").returncode == 0
    assert batch_status(stored, 1) == BatchStatus.COMPLETED


def test_a_completed_batch_is_asked_again_by_force_and_both_costs_are_told(
    command: Cli, answered: None, stored: Database
) -> None:
    done = command("rerun", 1, "--status", "succeeded", "--force", "--from-model", "gpt-4o", "--id", "p0", "--id", "p2")
    assert "2 succeeded jobs are queued again" in done.stderr
    assert "so far these have cost 0.004 USD in 2 calls" in done.stderr
    worker = WorkerByHand(stored)
    for job in worker.claim(4):
        worker.succeed(job, cost_nanos=3_000_000)
    rows = loaded(command("costs", "--batch", 1, "--by", "rerun", "--json"))["rows"]
    assert {row["rerun"]: row["cost"] for row in rows if row["currency"]} == {
        "never rerun": "0.002",
        "before rerun": "0.004",
        "since rerun": "0.006",
    }
    assert command("verify", 1).returncode == 0
    assert batch_status(stored, 1) == BatchStatus.COMPLETED


def test_counters_are_mended_by_counting_anew_and_that_completes_the_batch(
    command: Cli, answered: None, stored: Database
) -> None:
    with stored.write() as connection:
        connection.exec_driver_sql("UPDATE batches SET status = 'running', finished_at = NULL")
        connection.execute(batch_counts.update().where(batch_counts.c.shard == 5).values(succeeded=1, failed=-1))
    assert ended(stored, 1)
    assert not finalize(stored, 1)
    assert command("verify", 1).returncode == 1
    done = command("verify", 1, "--recount")
    assert (done.returncode, "batch 1 is completed now" in done.stderr) == (0, True)
    assert batch_status(stored, 1) == BatchStatus.COMPLETED


def test_there_is_nothing_to_verify_of_a_batch_that_is_not_there(command: Cli) -> None:
    done = command("verify", 9)
    assert (done.returncode, "no batch 9" in done.stderr) == (2, True)


@pytest.mark.parametrize("recount", [(), ("--recount",)])
def test_damaged_rows_are_told_and_end_with_1(
    command: Cli, answered: None, stored: Database, recount: tuple[str, ...]
) -> None:
    with stored.write() as connection:
        connection.exec_driver_sql(
            "UPDATE attempts SET cost_nanos = '1e999', outcome = 'odd' WHERE id = (SELECT min(id) FROM attempts)"
        )
    done = command("verify", 1, *recount)
    assert done.returncode == 1
    assert "damaged: 1 row of attempts holds no whole number in cost_nanos" in done.stdout
    assert json.loads(command("verify", 1, "--json").stdout)["adds_up"] is False
