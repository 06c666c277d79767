"""`cancel` and `rerun`: what they change, and what they leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from models import processes
from models.database import Database
from models.store import batches
from models.tables import workers
from tests.submit.cli.reading import Cli, loaded, worked_on
from tests.worker_by_hand import WorkerByHand


def test_cancel_stops_what_waits_and_keeps_what_is_done(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worked_on(stored)
    run = command("cancel", 1)
    assert run.returncode == 0
    assert "1 job cancelled" in run.stderr
    one = loaded(command("status", 1, "--json"))
    assert (one["status"], one["succeeded"], one["failed"], one["cancelled"]) == ("cancelled", 2, 1, 1)
    assert one["finished_at"] is not None
    again = command("cancel", 1)
    assert again.returncode == 2
    assert "ended already" in again.stderr


def test_a_cancel_says_when_nobody_lives_who_could_finish_what_is_under_way(
    command: Cli, prompts: Path, stored: Database
) -> None:
    command("submit", prompts)
    WorkerByHand(stored).claim(2)
    assert "no worker lives" not in command("cancel", 1).stderr
    with stored.write() as connection:
        connection.execute(sa.text("UPDATE workers SET heartbeat_at = heartbeat_at - 3600"))
    again = command("cancel", 1).stderr
    assert "no worker lives that could end what had been begun: the next `truckllm worker`" in again


def killed(database: Database, worker: WorkerByHand) -> None:
    """The worker was a process of this machine that is gone, with a heartbeat of a moment ago."""
    with database.write() as connection:
        connection.execute(
            workers.update()
            .where(workers.c.id == worker.id)
            .values(host=processes.host(), boot_id=processes.boot_id(), pid_started=-1.0)
        )


def test_after_everything_was_killed_a_cancel_ends_the_batch_and_its_rows_can_be_rerun(
    command: Cli, prompts: Path, stored: Database
) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    sent, _, _ = worker.claim(3)
    call = worker.announce(sent)
    killed(stored, worker)
    said = command("cancel", 1).stderr
    assert "4 jobs cancelled\n" in said
    assert "no worker lives" not in said
    one = loaded(command("status", 1, "--json"))
    assert (one["cancelled"], one["running"], one["unserved"]) == (4, 0, None)
    assert one["finished_at"] is not None
    run = command("rerun", 1, "--status", "cancelled")
    assert run.returncode == 0, run.stderr
    assert "4 cancelled jobs are queued again" in run.stderr
    worker.succeed(sent, announced=call)  # what was killed can't speak; a reply that comes too late mustn't count
    assert loaded(command("status", 1, "--json"))["succeeded"] == 0


@pytest.mark.parametrize("ask", [("rerun", 1, "--status", "cancelled"), ("delete", 1), ("delete", 1, "--force")])
def test_what_waits_for_a_cancelled_batchs_end_does_not_wait_for_the_dead(
    command: Cli, prompts: Path, stored: Database, ask: tuple[str | int, ...]
) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    worker.announce(worker.claim(2)[0])
    said = command("cancel", 1).stderr
    assert "2 jobs cancelled, 1 more held by workers, which give them up within seconds, 1 is under way" in said
    assert loaded(command("status", 1, "--json"))["unserved"] is None
    killed(stored, worker)
    assert "no worker lives" in loaded(command("status", 1, "--json"))["unserved"]
    run = command(*ask)
    assert run.returncode == 0, run.stderr


def test_a_cancel_that_was_interrupted_can_be_repeated(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    with stored.write() as connection:
        assert batches.cancel(connection, 1)
    assert "4 jobs cancelled" in command("cancel", 1).stderr
    assert loaded(command("status", 1, "--json"))["cancelled"] == 4


def test_rerun_takes_only_failed_jobs_and_keeps_the_results(command: Cli, prompts: Path, stored: Database) -> None:
    command("submit", prompts)
    worker = WorkerByHand(stored)
    for job in worker.claim(3):
        worker.succeed(job)
    worker.fail(worker.claim()[0])
    assert loaded(command("status", 1, "--json"))["status"] == "completed"
    run = command("rerun", 1)
    assert run.returncode == 0
    assert "1 failed job is queued again" in run.stderr
    one = loaded(command("status", 1, "--json"))
    assert (one["status"], one["succeeded"], one["failed"], one["queued"]) == ("running", 3, 0, 1)
    worker.succeed(worker.claim()[0])
    assert loaded(command("status", 1, "--json"))["status"] == "completed"
    assert "has no failed jobs" in command("rerun", 1).stderr


def test_rerun_waits_for_another_batch_of_the_same_file(command: Cli, prompts: Path) -> None:
    command("submit", prompts)
    command("cancel", 1)
    assert command("submit", prompts).stdout == "2\n"
    run = command("rerun", 1, "--status", "cancelled")
    assert run.returncode == 2
    assert "batch 2 works on the same file" in run.stderr
