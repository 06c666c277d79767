"""Giving back, rescuing, cancelling, rerunning and completing: each once, with counts that stay those of the rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from models.database import Database
from models.states import BatchStatus, JobStatus
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import reruns as rerun_store
from models.store.attempts import Announcement
from models.store.endings import record
from models.tables import batches, jobs, workers
from tests.making import (
    NOW,
    announce,
    assert_counts_are_true,
    batch_status,
    claim,
    ending,
    finish,
    job_rows,
    make_batch,
    statuses,
)

WORKER = {
    "host": "h",
    "boot_id": "b",
    "pid": 1,
    "pid_started": 0.0,
    "queues": "",
    "config_hash": "",
    "started_at": NOW,
    "heartbeat_at": NOW,
}


def end_all(database: Database, status: JobStatus = JobStatus.SUCCEEDED, worker: int = 1) -> None:
    while jobs_ := claim(database, worker):
        calls = announce(database, *jobs_)
        with database.write() as connection:
            record(connection, [ending(call, status) for call in calls], worker, NOW)


# Giving back and rescuing


def test_a_job_given_back_is_queued_in_a_new_epoch_and_spent_nothing(database: Database) -> None:
    batch = make_batch(database, 2)
    one, two = claim(database)
    with database.write() as connection:
        job_store.give_back(connection, {one.id: one.epoch})
        job_store.give_back(connection, {two.id: two.epoch}, not_before=NOW + 5)
    first, second = job_rows(database, batch)
    assert (first["status"], first["epoch"], first["worker_id"], first["attempts"]) == ("queued", 2, None, 0)
    assert (first["not_before"], second["not_before"]) == (None, NOW + 5)


def test_only_the_holder_of_the_epoch_can_give_a_job_back(database: Database) -> None:
    batch = make_batch(database, 1)
    (job,) = claim(database)
    with database.write() as connection:
        job_store.give_back(connection, {job.id: job.epoch - 1})
        job_store.give_back(connection, {job.id: job.epoch + 1})
        job_store.give_back(connection, {})
    assert statuses(database, batch) == ["running"]


def test_a_dead_workers_jobs_are_rescued_and_others_left_alone(database: Database) -> None:
    batch = make_batch(database, 4)
    dead = claim(database, worker_id=1, most=2)
    claim(database, worker_id=2, most=2)
    announce(database, dead[0])
    with database.write() as connection:
        assert job_store.rescue(connection, [1]) == 2
        assert job_store.rescue(connection, [1]) == 0
    rows = job_rows(database, batch)
    assert [row["status"] for row in rows] == ["queued", "queued", "running", "running"]
    assert [row["rescues"] for row in rows] == [1, 1, 0, 0]
    assert [row["attempts"] for row in rows] == [1, 0, 0, 0]


def test_jobs_of_workers_that_nobody_knows_are_rescued_too(database: Database) -> None:
    batch = make_batch(database, 3)
    for worker in (1, 2, 3):
        claim(database, worker, most=1)
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.worker_id == 3).values(worker_id=None))
        connection.execute(workers.insert().values(id=2, **WORKER))
        assert job_store.rescue(connection, None) == 2
    assert statuses(database, batch) == ["queued", "running", "queued"]


def test_a_rescue_takes_no_more_than_its_chunk(database: Database) -> None:
    batch = make_batch(database, 5)
    claim(database)
    with database.write() as connection:
        assert [job_store.rescue(connection, [1], most=2) for _ in range(4)] == [2, 2, 1, 0]
    assert statuses(database, batch) == ["queued"] * 5


def test_the_jobs_that_a_worker_is_said_to_run_are_told_with_their_epochs(database: Database) -> None:
    make_batch(database, 3)
    mine = claim(database, worker_id=5, most=2)
    claim(database, worker_id=6)
    with database.read() as connection:
        assert job_store.orphans(connection, 5) == {job.id: job.epoch for job in mine}
        assert job_store.orphans(connection, 7) == {}


def test_running_jobs_of_a_cancelled_batch_end_cancelled_when_they_come_back(database: Database) -> None:
    batch = make_batch(database, 3)
    given, rescued, _ = claim(database)
    with database.write() as connection:
        assert batch_store.cancel(connection, batch)
        job_store.give_back(connection, {given.id: given.epoch}, not_before=NOW + 60)
        assert job_store.rescue(connection, [1], most=1) == 1
    assert statuses(database, batch) == ["cancelled", "cancelled", "running"]
    assert rescued.id == job_rows(database, batch)[1]["id"]
    assert assert_counts_are_true(database, batch).cancelled == 2
    with database.write() as connection:
        job_store.rescue(connection, [1])
    assert finish(database, batch)


# Cancelling


def test_a_cancel_stops_claims_at_once_and_ends_queued_jobs_in_chunks(database: Database) -> None:
    batch = make_batch(database, 7)
    (job,) = claim(database, most=1)
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position == 3).values(not_before=NOW + 99))
        assert batch_store.cancel(connection, batch)
        assert not batch_store.cancel(connection, batch)
    assert claim(database) == []
    with database.write() as connection:
        assert [job_store.cancel_queued(connection, batch, NOW, most=4) for _ in range(3)] == [4, 2, 0]
    assert statuses(database, batch) == ["running"] + ["cancelled"] * 6
    rows = job_rows(database, batch)
    assert all(row["finished_at"] == NOW and row["not_before"] is None for row in rows[1:])
    assert not finish(database, batch)
    with database.write() as connection:
        job_store.give_back(connection, {job.id: job.epoch})
    assert finish(database, batch)
    assert assert_counts_are_true(database, batch).left == 0


def test_jobs_of_a_batch_that_is_not_cancelled_are_never_swept(database: Database) -> None:
    batch = make_batch(database, 2)
    with database.write() as connection:
        assert job_store.cancel_queued(connection, batch, NOW) == 0
    assert statuses(database, batch) == ["queued", "queued"]


def test_a_batch_that_has_ended_cannot_be_cancelled(database: Database) -> None:
    batch = make_batch(database, 1)
    end_all(database)
    assert finish(database, batch)
    with database.write() as connection:
        assert not batch_store.cancel(connection, batch)
    assert batch_status(database, batch) == BatchStatus.COMPLETED


# Rerunning


def test_a_rerun_queues_the_failed_jobs_and_only_those(database: Database) -> None:
    batch = make_batch(database, 5)
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call) for call in calls[:2]], 0, NOW)
        record(connection, [ending(call, JobStatus.FAILED, excluded=",openai,") for call in calls[2:]], 5, NOW)
    assert finish(database, batch)
    with database.write() as connection:
        assert [rerun_store.rerun(connection, batch, most=2).number for _ in range(3)] == [2, 1, 0]
    assert statuses(database, batch) == ["succeeded"] * 2 + ["queued"] * 3
    row = job_rows(database, batch)[4]
    assert (row["epoch"], row["excluded"], row["error_code"], row["error_message"]) == (3, "", None, None)
    assert (row["attempts"], row["finished_at"]) == (1, None)
    with database.read() as connection:
        found = batch_store.get(connection, batch)
    assert (found["status"], found["finished_at"]) == (BatchStatus.RUNNING, None)
    assert assert_counts_are_true(database, batch).left == 3
    end_all(database)
    assert finish(database, batch)
    assert assert_counts_are_true(database, batch).succeeded == 5


def test_a_late_reply_to_a_failed_call_cannot_touch_the_rerun(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED)], 0, NOW)
        rerun_store.rerun(connection, batch)
        assert record(connection, [ending(call)], 0, NOW) == set()
    (again,) = announce(database, *claim(database))
    with database.write() as connection:
        assert record(connection, [ending(call)], 0, NOW) == set()
        assert record(connection, [ending(again)], 0, NOW) == {batch}
    assert_counts_are_true(database, batch)


def test_nothing_of_a_cancelled_batch_is_rerun(database: Database) -> None:
    batch = make_batch(database, 2)
    (call,) = announce(database, *claim(database, most=1))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED)], 0, NOW)
        batch_store.cancel(connection, batch)
        job_store.cancel_queued(connection, batch, NOW)
        assert rerun_store.rerun(connection, batch).number == 0
    assert statuses(database, batch) == ["failed", "cancelled"]
    assert finish(database, batch)
    assert_counts_are_true(database, batch)


# Completing


def test_a_batch_is_completed_only_when_every_job_has_ended(database: Database) -> None:
    batch = make_batch(database, 3)
    calls = announce(database, *claim(database))
    for call, status in zip(calls, (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.SUCCEEDED), strict=True):
        assert not finish(database, batch)
        with database.write() as connection:
            record(connection, [ending(call, status)], 0, NOW)
    assert batch_status(database, batch) == BatchStatus.RUNNING
    assert finish(database, batch)
    assert not finish(database, batch)
    with database.read() as connection:
        row = batch_store.get(connection, batch)
    assert row["status"] == BatchStatus.COMPLETED
    assert row["finished_at"] is not None


def test_a_batch_that_is_still_loaded_is_never_completed(database: Database) -> None:
    batch = make_batch(database, 0, publish=False)
    assert not finish(database, batch)
    assert batch_status(database, batch) == BatchStatus.LOADING


def test_of_many_workers_that_end_the_last_jobs_exactly_one_completes_the_batch(database: Database) -> None:
    workers, rounds = 5, 4
    for _ in range(rounds):
        batch = make_batch(database, workers * 2)
        held = [announce(database, *claim(database, worker, most=2)) for worker in range(workers)]
        gate = threading.Barrier(workers)

        def commit(worker: int, calls: list[Announcement], batch: int, gate: threading.Barrier) -> int:
            wins = 0
            gate.wait()
            for call in calls:
                with database.write() as connection:
                    record(connection, [ending(call)], worker, NOW)
                wins += finish(database, batch)
            return wins

        with ThreadPoolExecutor(workers) as pool:
            commits = [pool.submit(commit, worker, held[worker], batch, gate) for worker in range(workers)]
            assert sum(done.result(30) for done in commits) == 1
        assert batch_status(database, batch) == BatchStatus.COMPLETED
        assert assert_counts_are_true(database, batch).succeeded == workers * 2


def test_workers_that_touch_the_same_batches_in_different_order_do_not_block_each_other(database: Database) -> None:
    first, second = make_batch(database, 20), make_batch(database, 20)
    calls = announce(database, *claim(database, most=40))
    by_batch = {batch: [call for call in calls if call.batch_id == batch] for batch in (first, second)}

    def commit(order: tuple[int, int], offset: int) -> None:
        for n in range(10):
            with database.write() as connection:
                # the same shard on purpose: the counter rows of both batches are contended
                record(connection, [ending(by_batch[batch][offset + n]) for batch in order], 4, NOW)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(commit, (first, second), 0), pool.submit(commit, (second, first), 10)]:
            done.result(30)
    for batch in (first, second):
        assert assert_counts_are_true(database, batch).succeeded == 20


# Loading


def test_a_load_belongs_to_one_loader_and_is_visible_only_once_it_is_published(database: Database) -> None:
    batch = make_batch(database, 2, publish=False)
    assert claim(database) == []
    with database.write() as connection:
        assert not batch_store.add_jobs(connection, batch, "other", [], NOW)
        assert not batch_store.publish(connection, batch, "other")
        assert batch_store.take_over(connection, batch, "other", NOW + 59) is None
        assert batch_store.take_over(connection, batch, "other", NOW + 61) == 2
        assert not batch_store.add_jobs(connection, batch, "me", [], NOW)
        assert not batch_store.publish(connection, batch, "me")
        assert batch_store.publish(connection, batch, "other")
    assert len(claim(database)) == 2


def test_the_same_file_with_the_same_options_is_loaded_once_while_it_is_unfinished(database: Database) -> None:
    def create(again: int = 0) -> int:
        with database.write() as connection:
            return batch_store.create(
                connection,
                name="x",
                input_name="x",
                sha256="f" * 64,
                options_hash="o",
                defaults="{}",
                priority=0,
                again=again,
                loader="me",
                now=NOW,
            )

    first = create()
    with pytest.raises(sa.exc.IntegrityError):
        create()
    forced = create(again=first)
    with database.write() as connection:
        connection.execute(batches.update().where(batches.c.id == first).values(status=BatchStatus.COMPLETED))
    assert len({first, forced, create()}) == 3
