"""Removing batches on both databases: all of a batch goes but its calls, in chunks, and a late reply finds nothing to break."""

from __future__ import annotations

import sqlalchemy as sa

from models.database import Database
from models.states import BatchStatus, Outcome
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import ledger, removals
from models.store.endings import record
from models.tables import batch_counts, batch_spend, batches, job_inputs, jobs, results
from tests.making import NOW, announce, attempt_rows, batch_status, claim, ending, finish, make_batch


def finished(database: Database, number: int = 3) -> int:
    batch = make_batch(database, number)
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call) for call in calls], 0, NOW)
    finish(database, batch)
    with database.write() as connection:
        connection.execute(batches.update().where(batches.c.id == batch).values(finished_at=NOW))
    return batch


def remove(database: Database, batch: int) -> None:
    with database.write() as connection:
        assert removals.begin(connection, batch, NOW)
    chunk = -1
    while chunk:
        with database.write() as connection:
            chunk = removals.remove(connection, batch, most=2)


def test_only_the_ledger_is_left_and_other_batches_stay_whole(database: Database) -> None:
    gone, kept = finished(database), finished(database)
    remove(database, gone)
    with database.read() as connection:
        for table in (jobs, batch_counts, batch_spend):
            assert set(connection.execute(sa.select(table.c.batch_id)).scalars()) == {kept}
        assert connection.execute(sa.select(sa.func.count()).select_from(results)).scalar_one() == 3
        assert connection.execute(sa.select(sa.func.count()).select_from(job_inputs)).scalar_one() == 3
        assert list(connection.execute(sa.select(batches.c.id)).scalars()) == [kept]
        (spent,) = ledger.spent(connection, [], batch_id=gone)
    assert (spent.calls, spent.cost_nanos) == (3, 3000)


def test_an_unfinished_batch_is_left_alone(database: Database) -> None:
    batch = make_batch(database, 2)
    claim(database, most=1)
    with database.write() as connection:
        assert not removals.begin(connection, batch, NOW)
        assert removals.remove(connection, batch) == 0
        batch_store.cancel(connection, batch)
        job_store.cancel_queued(connection, batch, NOW)
        assert not removals.begin(connection, batch, NOW)
    assert batch_status(database, batch) == BatchStatus.CANCELLED


def test_a_removal_that_was_cut_short_is_found_and_goes_on(database: Database) -> None:
    batch = finished(database)
    with database.write() as connection:
        removals.begin(connection, batch, NOW)
        assert removals.remove(connection, batch, most=2) == 2
    with database.read() as connection:
        assert removals.ended_before(connection, 0.0) == [batch]
    remove(database, batch)
    with database.read() as connection:
        assert removals.ended_before(connection, NOW * 2) == []


def test_what_ended_before_a_moment_is_found_and_nothing_else(database: Database) -> None:
    old = finished(database)
    make_batch(database, 1)
    with database.read() as connection:
        assert removals.ended_before(connection, NOW) == []
        assert removals.ended_before(connection, NOW + 1) == [old]


def test_a_late_reply_to_a_call_of_a_deleted_batch_still_reaches_the_ledger(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    with database.write() as connection:
        batch_store.cancel(connection, batch)
        job_store.rescue(connection, [1])  # its worker was taken for dead
    with database.write() as connection:
        assert batch_store.finish_if_done(connection, batch, NOW)
    remove(database, batch)
    with database.write() as connection:
        assert record(connection, [ending(call)], 0, NOW) == set()
    (row,) = attempt_rows(database, batch)
    assert (row["outcome"], row["cost_nanos"]) == (Outcome.FENCED, 1000)
