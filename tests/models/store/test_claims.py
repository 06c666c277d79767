"""Claims take fairly, within their bounds, from the right lanes; nothing leaves without an announcement that stands."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from models.database import Database
from models.states import BatchStatus, JobStatus, Outcome
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import claims
from models.store import jobs as job_store
from models.store.endings import record
from models.tables import batches, jobs
from tests.making import (
    NOW,
    announce,
    announcement,
    attempt_rows,
    batch_status,
    claim,
    ending,
    job_rows,
    make_batch,
    new_job,
    statuses,
)

LANES = ["openai", "claude", "gemini", *(f"lane{n}" for n in range(7))]


@pytest.fixture(autouse=True)
def _same_dice_in_every_run() -> None:
    random.seed(4)


def set_batch(database: Database, batch_id: int, **values: object) -> None:
    with database.write() as connection:
        connection.execute(batches.update().where(batches.c.id == batch_id).values(**values))


def test_a_claim_takes_by_position_and_hands_out_what_the_job_needs(database: Database) -> None:
    batch = make_batch(database, [new_job(n, body=b'{"prompt": "%d"}' % n) for n in range(5)])
    first = claim(database, worker_id=7, most=2)
    second = claim(database, worker_id=8, most=2)
    assert [job.body for job in first] == [b'{"prompt": "0"}', b'{"prompt": "1"}']
    assert [job.body for job in second] == [b'{"prompt": "2"}', b'{"prompt": "3"}']
    assert {(job.lane, job.model, job.dialect, job.operation) for job in first} == {
        ("openai", "gpt-4o", "simple", "chat")
    }
    assert all(job.epoch == 1 for job in first + second)
    rows = job_rows(database, batch)
    assert [row["worker_id"] for row in rows] == [7, 7, 8, 8, None]
    assert [row["epoch"] for row in rows] == [1, 1, 1, 1, 0]
    assert statuses(database, batch) == ["running"] * 4 + ["queued"]


def test_the_first_claim_starts_a_batch_and_no_later_one_changes_its_start(database: Database) -> None:
    batch = make_batch(database, 3)
    assert batch_status(database, batch) == BatchStatus.QUEUED
    claim(database, most=1)
    with database.write() as connection:
        started = batch_store.get(connection, batch)["started_at"]
        assert started == NOW
        claims.claim(
            connection, provider="openai", lanes=["openai"], worker_id=1, most=1, most_bytes=1000, now=NOW + 50
        )
        assert batch_store.get(connection, batch)["started_at"] == started
    assert batch_status(database, batch) == BatchStatus.RUNNING


def test_batches_of_one_priority_share_a_claim_equally_and_leave_nothing_unused(database: Database) -> None:
    big, small, middle = make_batch(database, 100), make_batch(database, 2), make_batch(database, 100)
    taken = Counter(job.batch_id for job in claim(database, most=30))
    assert taken.total() == 30
    assert taken[small] == 2
    assert abs(taken[big] - taken[middle]) <= 9
    later = Counter(job.batch_id for _ in range(5) for job in claim(database, most=20))
    assert later.total() == 100
    assert abs(later[big] - later[middle]) <= 2


def test_lower_priorities_get_about_a_twentieth_of_every_claim_size(database: Database) -> None:
    high, low = make_batch(database, 700, priority=5), make_batch(database, 700, priority=0)
    for most, times in ((64, 4), (2, 60), (1, 150)):
        with database.write() as connection:
            taken = Counter(
                job.batch_id
                for _ in range(times)
                for job in claims.claim(
                    connection, provider="openai", lanes=["openai"], worker_id=1, most=most, most_bytes=9999, now=NOW
                )
            )
        assert taken.total() == most * times
        assert 0.01 < taken[low] / taken.total() < 0.12, (most, taken)
        assert taken[high] > taken[low]


def test_a_lower_priority_gets_everything_once_the_higher_one_has_nothing_queued(database: Database) -> None:
    make_batch(database, 3, priority=9)
    low = make_batch(database, 10)
    claim(database, most=3 + 1)
    while (taken := claim(database, most=4)) and {job.batch_id for job in taken} != {low}:
        pass
    assert {job.batch_id for job in taken} == {low}


@pytest.mark.parametrize("most", [1, 4])
def test_a_higher_priority_gets_everything_while_the_lower_one_has_nothing_queued(
    database: Database, most: int
) -> None:
    high = make_batch(database, 60, priority=1)
    make_batch(database, 1)
    taken = [job.batch_id for _ in range(60 // most + 1) for job in claim(database, most=most)]
    assert taken.count(high) == 60


def test_a_claim_takes_only_from_its_own_lanes(database: Database) -> None:
    batch = make_batch(
        database,
        [new_job(0, lane="claude"), new_job(1, lane="openai"), new_job(2, lane="any"), new_job(3, lane="gemini")],
    )
    taken = claim(database, lanes=["openai", "any"])
    assert [job.lane for job in taken] == ["openai", "any"]
    assert statuses(database, batch) == ["queued", "running", "running", "queued"]
    assert {row["provider"] for row in job_rows(database, batch) if row["status"] == "running"} == {"openai"}


def test_a_provider_that_failed_a_job_of_a_route_leaves_it_to_the_others(database: Database) -> None:
    batch = make_batch(database, [new_job(0, lane="any"), new_job(1, lane="any")])
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position == 0).values(excluded=",gemini,openai,"))
    assert [row.epoch for row in claim(database, provider="openai", lanes=["openai", "any"])] == [1]
    assert statuses(database, batch) == ["queued", "running"]
    assert claim(database, provider="open", lanes=["open", "any"])[0].excluded == ",gemini,openai,"


def test_an_exclusion_does_not_keep_a_provider_from_its_own_lane(database: Database) -> None:
    make_batch(database, 1)
    with database.write() as connection:
        connection.execute(jobs.update().values(excluded=",openai,"))
    assert len(claim(database)) == 1


def test_a_claim_stays_within_its_bytes_but_takes_one_bigger_job_alone(database: Database) -> None:
    make_batch(database, [new_job(0, body=b"x" * 500), new_job(1, body=b"y" * 300), new_job(2, body=b"z" * 5000)])
    assert [len(job.body) for job in claim(database, most_bytes=800)] == [500, 300]
    assert [len(job.body) for job in claim(database, most_bytes=1)] == [5000]


@pytest.mark.parametrize(
    "status", [BatchStatus.LOADING, BatchStatus.PAUSED, BatchStatus.CANCELLED, BatchStatus.COMPLETED]
)
def test_a_batch_that_is_not_to_run_is_not_claimed_from(database: Database, status: BatchStatus) -> None:
    batch = make_batch(database, 2)
    set_batch(database, batch, status=status)
    assert claim(database) == []
    with database.read() as connection:
        assert job_store.waiting_lanes(connection, LANES) == set()


def test_a_snoozed_job_is_claimable_once_it_is_woken_and_not_before(database: Database) -> None:
    batch = make_batch(database, 2)
    (call,) = announce(database, *claim(database, most=1))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.QUEUED, not_before=NOW + 30)], 0, NOW)
        assert job_store.next_due(connection, LANES) == NOW + 30
        assert job_store.wake(connection, LANES, NOW + 29) == 0
    assert [job.id != call.job_id for job in claim(database)] == [True]
    with database.write() as connection:
        assert job_store.wake(connection, LANES, NOW + 30) == 1
        assert job_store.next_due(connection, LANES) is None
        assert job_store.waiting_lanes(connection, LANES) == {"openai"}
    assert [job.id for job in claim(database)] == [call.job_id]
    assert statuses(database, batch) == ["running", "running"]


def test_a_snooze_further_off_than_ten_minutes_is_pulled_in(database: Database) -> None:
    make_batch(database, 1)
    with database.write() as connection:
        connection.execute(jobs.update().values(not_before=NOW + 90_000))
        assert job_store.pull_in(connection, LANES, NOW) == 1
        assert job_store.next_due(connection, LANES) == NOW + 600
        assert job_store.pull_in(connection, LANES, NOW + 300) == 0
        assert job_store.next_due(connection, LANES) == NOW + 600
        assert job_store.wake(connection, LANES, NOW + 600) == 1


def test_the_lanes_in_which_something_waits_are_found_in_any_number(database: Database) -> None:
    make_batch(database, [new_job(n, lane=f"lane{n % 7}") for n in range(30)])
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.lane == "lane3").values(not_before=NOW + 5))
        assert job_store.waiting_lanes(connection, LANES) == {f"lane{n}" for n in (0, 1, 2, 4, 5, 6)}


def test_concurrent_claims_never_hand_out_a_job_twice(database: Database) -> None:
    batch = make_batch(database, 120)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda worker: [claim(database, worker, most=4) for _ in range(8)], range(1, 7)))
    ids = [job.id for all_ in found for jobs_ in all_ for job in jobs_]
    assert len(ids) == len(set(ids))
    rows = job_rows(database, batch)
    assert sum(row["status"] == "running" for row in rows) == len(ids)
    assert all(row["epoch"] == (row["status"] == "running") for row in rows)


# Announcing


def test_an_announced_call_is_in_the_ledger_as_unknown_before_it_leaves(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    (row,) = attempt_rows(database, batch)
    assert (row["id"], row["job_id"], row["epoch"]) == (call.attempt_id, call.job_id, call.epoch)
    assert (row["provider"], row["key_id"], row["requested_model"]) == ("openai", "key-1", "gpt-4o")
    assert (row["outcome"], row["booked_tokens"], row["started_at"]) == (Outcome.UNKNOWN, 100, NOW)
    assert row["finished_at"] is None


@pytest.mark.parametrize("status", [BatchStatus.CANCELLED, BatchStatus.PAUSED])
def test_no_call_of_a_batch_that_was_stopped_since_the_claim_may_leave(database: Database, status: BatchStatus) -> None:
    stopped, running = make_batch(database, 1), make_batch(database, 1)
    claimed = claim(database)
    set_batch(database, stopped, status=status)
    calls = [announcement(job) for job in claimed]
    with database.write() as connection:
        allowed = attempt_store.announce(connection, calls, NOW)
    assert allowed == {call.attempt_id for call in calls if call.batch_id == running}
    assert attempt_rows(database, stopped) == []


def test_no_call_for_a_job_that_was_lost_since_the_claim_may_leave(database: Database) -> None:
    batch = make_batch(database, 3)
    kept, rescued, taken_again = claim(database, worker_id=1)
    with database.write() as connection:
        job_store.give_back(connection, {rescued.id: rescued.epoch, taken_again.id: taken_again.epoch})
        connection.execute(jobs.update().where(jobs.c.id == rescued.id).values(not_before=NOW + 99))
    assert [job.id for job in claim(database, worker_id=2)] == [taken_again.id]
    calls = [announcement(job) for job in (kept, rescued, taken_again)]
    with database.write() as connection:
        assert attempt_store.announce(connection, calls, NOW) == {calls[0].attempt_id}
    assert [row["job_id"] for row in attempt_rows(database, batch)] == [kept.id]


def test_an_announcement_can_be_taken_back_only_while_nothing_is_known_of_the_call(database: Database) -> None:
    batch = make_batch(database, 2)
    unsent, sent = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(sent)], 0, NOW)
        attempt_store.unsent(connection, [unsent.attempt_id, sent.attempt_id])
    assert [row["id"] for row in attempt_rows(database, batch)] == [sent.attempt_id]


@pytest.mark.parametrize("moment", ["waiting", "running", "ended"])
def test_what_is_taken_back_after_a_rescue_is_no_call_of_the_job(database: Database, moment: str) -> None:
    batch = make_batch(database, 1)
    (late,) = announce(database, *claim(database, worker_id=1))
    with database.write() as connection:
        assert job_store.rescue(connection, [1]) == 1
    calls = announce(database, *claim(database, worker_id=2)) if moment != "waiting" else []
    with database.write() as connection:
        if moment == "ended":
            record(connection, [ending(calls[0])], 0, NOW)
        attempt_store.unsent(connection, [late.attempt_id])
    if moment == "running":
        with database.write() as connection:
            record(connection, [ending(calls[0])], 0, NOW)
    with database.read() as connection:
        assert connection.execute(sa.select(jobs.c.attempts)).scalar_one() == len(calls)
    assert [row["id"] for row in attempt_rows(database, batch)] == [call.attempt_id for call in calls]


def test_a_jobs_history_is_told_oldest_first(database: Database) -> None:
    batch = make_batch(database, 1)
    for n in range(3):
        (call,) = announce(database, *claim(database), now=NOW + n)
        with database.write() as connection:
            record(connection, [ending(call, JobStatus.QUEUED, error_code=f"e{n}")], 0, NOW)
    with database.read() as connection:
        rows = attempt_store.history(connection, job_rows(database, batch)[0]["id"])
        assert [row["error_code"] for row in rows] == ["e0", "e1", "e2"]
        assert [row["epoch"] for row in rows] == [1, 3, 5]
        recent = attempt_store.started_since(connection, NOW)
        assert [(row["provider"], row["booked_tokens"], row["started_at"]) for row in recent] == [
            ("openai", 100, NOW + 1),
            ("openai", 100, NOW + 2),
        ]
    assert job_rows(database, batch)[0]["attempts"] == 3


def test_the_database_itself_refuses_two_calls_for_one_claim(database: Database) -> None:
    make_batch(database, 1)
    (job,) = claim(database)
    announce(database, job)
    with pytest.raises(sa.exc.IntegrityError), database.write() as connection:
        attempt_store.announce(connection, [announcement(job)], NOW)


def test_claims_begin_behind_what_an_earlier_one_has_passed_over(database: Database) -> None:
    batch = make_batch(database, [new_job(n, model="big" if n < 500 else "small") for n in range(520)])
    skip, passed = [("openai", "big")], {}
    first = claim(database, most=8, skip=skip, passed=passed)
    assert passed == {(batch, "openai"): 499}
    second = claim(database, most=8, skip=skip, passed=passed)
    assert len({job.id for job in [*first, *second]}) == 16
    assert {job.model for job in [*first, *second]} == {"small"}
    claim(database, most=8, skip=skip, passed=passed)
    assert claim(database, most=8, skip=skip, passed=passed) == []
    assert {job.model for job in claim(database, most=8)} == {"big"}
