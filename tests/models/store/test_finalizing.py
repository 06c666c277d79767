"""A batch is completed only when it adds up, by exactly one, on both databases; what doesn't add up stays, is told, and can be mended."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from models.database import Database
from models.finalizing import ended, finalize, reconcile
from models.states import BatchStatus, JobStatus
from models.store import batches as batch_store
from models.store import finals, reconciliation, reruns
from models.store import jobs as job_store
from models.store.endings import record
from models.store.recounts import recount
from models.tables import batch_counts, batch_spend, batches, jobs, results
from tests.making import NOW, announce, assert_counts_are_true, batch_status, claim, ending, job_rows, make_batch


def done(database: Database, number: int = 3) -> int:
    """A batch whose last job has just ended, and at whose end nobody has looked."""
    batch = make_batch(database, number)
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call) for call in calls], 0, NOW)
    return batch


def broken(database: Database) -> int:
    """A batch that is finalizing and has lost a result."""
    batch = done(database)
    with database.write() as connection:
        connection.execute(results.delete().where(results.c.job_id == job_rows(database, batch)[1]["id"]))
    assert ended(database, batch)
    assert not finalize(database, batch)
    return batch


def row(database: Database, batch: int) -> sa.RowMapping:
    with database.read() as connection:
        return batch_store.get(connection, batch)


def test_the_last_job_makes_it_finalizing_and_its_books_complete_it(database: Database) -> None:
    batch = done(database)
    assert batch_status(database, batch) == BatchStatus.RUNNING
    assert ended(database, batch)
    assert not ended(database, batch), "only one hears that it has ended"
    assert (batch_status(database, batch), row(database, batch)["finished_at"]) == (BatchStatus.FINALIZING, None)
    assert finalize(database, batch)
    assert not finalize(database, batch)
    found = row(database, batch)
    assert (found["status"], found["finalizer"], found["problem"]) == (BatchStatus.COMPLETED, None, None)
    assert found["finished_at"] is not None


def test_of_many_finalizers_exactly_one_completes_it(database: Database) -> None:
    for _ in range(3):
        batch = done(database)
        assert ended(database, batch)
        gate = threading.Barrier(4)

        def complete(batch: int = batch, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            return finalize(database, batch)

        with ThreadPoolExecutor(4) as pool:
            assert sum(one.result(30) for one in [pool.submit(complete) for _ in range(4)]) == 1
        assert batch_status(database, batch) == BatchStatus.COMPLETED


def test_what_does_not_add_up_stays_finalizing_and_is_told(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        batch = broken(database)
    found = row(database, batch)
    assert (found["status"], found["finished_at"]) == (BatchStatus.FINALIZING, None)
    assert "1 job has succeeded without a result" in found["problem"]
    assert f"truckllm verify {batch}" in caplog.text


def test_a_problem_is_looked_at_again_a_minute_later_and_by_hand_at_once(database: Database) -> None:
    batch = broken(database)
    with database.read() as connection:
        now = database.now(connection)
        assert finals.waiting(connection, now + finals.AGAIN_SECONDS - 1) == []
        assert finals.waiting(connection, now + finals.AGAIN_SECONDS + 1) == [batch]
    with database.write() as connection:
        assert reruns.rerun(connection, batch, reruns.Which(JobStatus.SUCCEEDED, custom_ids=("line-2",))).number == 1
    assert row(database, batch)["problem"] is None
    with database.write() as connection:
        recount(connection, batch)
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call) for call in calls], 0, NOW)
    assert ended(database, batch)
    assert finalize(database, batch)


def test_a_finalizer_that_died_is_succeeded_by_another(database: Database) -> None:
    batch = done(database)
    assert ended(database, batch)
    with database.write() as connection:
        now = database.now(connection)
        assert finals.take_over(connection, batch, "the dead", now)
        assert finals.waiting(connection, now + 1) == []
        assert not finals.take_over(connection, batch, "another", now + finals.SILENT_SECONDS - 1)
        assert finals.touch(connection, batch, "the dead", now + 10)
        assert finals.waiting(connection, now + finals.SILENT_SECONDS + 1) == []
        assert finals.waiting(connection, now + finals.SILENT_SECONDS + 11) == [batch]
        assert finals.take_over(connection, batch, "another", now + finals.SILENT_SECONDS + 11)
        assert not finals.touch(connection, batch, "the dead", now + 30)
        assert not finals.complete(connection, batch, "the dead", now + 30)
        assert finals.complete(connection, batch, "another", now + 30)
    assert batch_status(database, batch) == BatchStatus.COMPLETED


def test_a_rerun_in_the_middle_of_it_wins(database: Database) -> None:
    batch = done(database)
    assert ended(database, batch)
    with database.write() as connection:
        assert finals.take_over(connection, batch, "me", database.now(connection))
    with database.write() as connection:
        assert reruns.rerun(connection, batch, reruns.Which(JobStatus.SUCCEEDED, custom_ids=("line-1",))).number == 1
    with database.write() as connection:
        assert not finals.complete(connection, batch, "me", NOW)
        assert not finals.refuse(connection, batch, "me", "something", NOW)
    assert batch_status(database, batch) == BatchStatus.RUNNING


def test_a_batch_that_only_seemed_to_have_ended_goes_on(database: Database) -> None:
    batch = done(database)
    with database.write() as connection:
        assert reruns.rerun(connection, batch, reruns.Which(JobStatus.SUCCEEDED, custom_ids=("line-1",))).number == 1
        # as one sees it that has counted before the rerun and moves the batch after it
        connection.execute(batches.update().values(status=BatchStatus.FINALIZING))
    assert not finalize(database, batch)
    assert (batch_status(database, batch), row(database, batch)["problem"]) == (BatchStatus.RUNNING, None)
    assert len(claim(database)) == 1


def test_a_batch_that_is_finalizing_runs_nothing_and_is_not_cancelled_or_paused(database: Database) -> None:
    batch = broken(database)
    assert claim(database) == []
    with database.write() as connection:
        assert not batch_store.cancel(connection, batch)
        assert not batch_store.pause(connection, batch, "why")
        assert not batch_store.resume(connection, batch)
        assert not batch_store.set_priority(connection, batch, 3)
        assert batch_store.unended(connection) == []
    assert batch_status(database, batch) == BatchStatus.FINALIZING


def test_a_finalizer_that_is_told_to_end_leaves_it_to_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "CHUNK", 2)
    batch = done(database, 5)
    assert ended(database, batch)
    assert not finalize(database, batch, ending=lambda: True)
    assert (batch_status(database, batch), row(database, batch)["problem"]) == (BatchStatus.FINALIZING, None)
    assert finalize(database, batch, at_once=True)


def test_counters_that_went_wrong_are_counted_anew(database: Database) -> None:
    batch = make_batch(database, 4)
    calls = announce(database, *claim(database, most=3))
    with database.write() as connection:
        record(connection, [ending(call) for call in calls[:2]], 2, NOW)
        record(connection, [ending(calls[2], JobStatus.FAILED)], 3, NOW)
        connection.execute(batch_counts.update().where(batch_counts.c.shard == 7).values(cancelled=1))
        connection.execute(batch_spend.update().values(calls=9, cost_nanos=1))
    assert ended(database, batch), "one job too many was counted"
    assert not finalize(database, batch)
    assert "1 job of a batch that has ended" in str(row(database, batch)["problem"])
    with database.write() as connection:
        recount(connection, batch)
    counts = assert_counts_are_true(database, batch)
    assert (counts.succeeded, counts.failed, counts.left) == (2, 1, 1)
    found = reconcile(database, batch)
    assert found is not None
    assert found.sentence == ""
    assert batch_status(database, batch) == BatchStatus.RUNNING, "a job of it is still to run"


def test_what_comes_back_into_a_cancelled_batch_ends_it_at_once(database: Database) -> None:
    batch = make_batch(database, 3)
    held = claim(database, most=2)
    with database.write() as connection:
        batch_store.cancel(connection, batch)
        job_store.cancel_queued(connection, batch, NOW)
    assert not ended(database, batch)
    with database.write() as connection:
        job_store.give_back(connection, {held[0].id: held[0].epoch})
    with database.write() as connection:
        assert job_store.rescue(connection, [1]) == 1
    assert all(one["finished_at"] is not None for one in job_rows(database, batch))
    assert ended(database, batch)
    found = row(database, batch)
    assert (found["status"], found["finished_at"] is not None) == (BatchStatus.CANCELLED, True)


def test_what_was_put_back_while_its_batch_was_being_cancelled_is_cancelled(database: Database) -> None:
    batch = make_batch(database, 2)
    with database.write() as connection:
        batch_store.cancel(connection, batch)
    assert ended(database, batch), "queued jobs that the cancelling one couldn't see yet"
    assert {one["status"] for one in job_rows(database, batch)} == {JobStatus.CANCELLED}
    assert assert_counts_are_true(database, batch).cancelled == 2


def test_a_batch_that_is_gone_has_no_end(database: Database) -> None:
    assert not ended(database, 99)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(jobs)).scalar_one() == 0
        assert connection.execute(sa.select(batches.c.id)).first() is None
