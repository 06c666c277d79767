"""Pausing, resuming and priority: what may be claimed and sent meanwhile, and what a batch comes back as. Both databases."""

from __future__ import annotations

import pytest

from models.database import Database
from models.states import BatchStatus, JobStatus
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store.endings import record
from tests.making import (
    NOW,
    announce,
    announcement,
    assert_counts_are_true,
    batch_status,
    claim,
    ending,
    finish,
    make_batch,
    statuses,
)


def pause(database: Database, batch: int) -> bool:
    with database.write() as connection:
        return batch_store.pause(connection, batch, "why")


def resume(database: Database, batch: int) -> bool:
    with database.write() as connection:
        return batch_store.resume(connection, batch)


def test_nothing_of_a_paused_batch_is_claimed_and_resuming_brings_it_all_back(database: Database) -> None:
    batch = make_batch(database, 3)
    assert pause(database, batch)
    assert not pause(database, batch)
    assert claim(database) == []
    with database.read() as connection:
        assert batch_store.get(connection, batch)["paused_reason"] == "why"
        assert job_store.waiting_lanes(connection, ["openai"]) == set()
    assert resume(database, batch)
    assert not resume(database, batch)
    assert batch_status(database, batch) == BatchStatus.QUEUED
    with database.read() as connection:
        assert batch_store.get(connection, batch)["paused_reason"] is None
    assert len(claim(database)) == 3


def test_a_job_claimed_before_the_pause_is_not_sent_and_goes_back(database: Database) -> None:
    batch = make_batch(database, 2)
    job, _ = claim(database)
    pause(database, batch)
    with database.write() as connection:
        assert attempt_store.announce(connection, [announcement(job)], NOW) == set()
        job_store.give_back(connection, {job.id: job.epoch})
    assert statuses(database, batch)[0] == JobStatus.QUEUED
    assert resume(database, batch)
    assert batch_status(database, batch) == BatchStatus.RUNNING


def test_a_call_sent_before_the_pause_is_kept_and_can_complete_the_batch(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    pause(database, batch)
    with database.write() as connection:
        assert record(connection, [ending(call)], 0, NOW) == {batch}
    assert finish(database, batch)
    assert batch_status(database, batch) == BatchStatus.COMPLETED
    assert assert_counts_are_true(database, batch).succeeded == 1
    assert not resume(database, batch)


def test_a_paused_batch_can_be_cancelled_and_a_cancelled_one_not_paused(database: Database) -> None:
    batch = make_batch(database, 1)
    pause(database, batch)
    with database.write() as connection:
        assert batch_store.cancel(connection, batch)
    assert not pause(database, batch)
    assert not resume(database, batch)
    assert batch_status(database, batch) == BatchStatus.CANCELLED


@pytest.mark.parametrize("number", [5, -5])
def test_a_new_priority_holds_from_the_next_claim_on(database: Database, number: int) -> None:
    first, second = make_batch(database, 4), make_batch(database, 4)
    with database.write() as connection:
        assert batch_store.set_priority(connection, second, number)
    wanted = second if number > 0 else first
    assert [job.batch_id for job in claim(database, most=3)].count(wanted) >= 2  # a lower one may get its twentieth


def test_a_batch_that_has_ended_takes_no_priority(database: Database) -> None:
    batch = make_batch(database, 1)
    with database.write() as connection:
        batch_store.cancel(connection, batch)
        assert not batch_store.set_priority(connection, batch, 3)
