"""When a provider is back, those that waited because of it come soon, and nobody else."""

from __future__ import annotations

from models.database import Database
from models.states import JobStatus, Outcome
from models.store import jobs as job_store
from models.store import recoveries
from models.store.attempts import Announcement
from models.store.endings import record
from tests.making import NOW, announce, claim, ending, job_rows, make_batch


def snoozed(database: Database, count: int, outcome: Outcome, *, seconds: float = 50) -> int:
    """A batch whose jobs wait for so long after a call that ended so."""
    batch = make_batch(database, count)
    calls = announce(database, *claim(database, most=count))
    with database.write() as connection:
        ends = [ending(call, JobStatus.QUEUED, outcome=outcome, not_before=NOW + seconds) for call in calls]
        record(connection, ends, 0, NOW)
    return batch


def waits(database: Database, batch: int) -> list[float]:
    return [row["not_before"] - NOW for row in job_rows(database, batch)]


def test_who_waits_for_a_provider_that_had_failed_comes_within_two_seconds_and_not_all_at_once(
    database: Database,
) -> None:
    batch = snoozed(database, 40, Outcome.FAILED)
    with database.write() as connection:
        assert recoveries.hasten(connection, "openai", ["openai"], NOW, most=30) == 30
        assert recoveries.hasten(connection, "openai", ["openai"], NOW, most=30) == 10
        assert recoveries.hasten(connection, "openai", ["openai"], NOW, most=30) == 0
    found = waits(database, batch)
    assert all(0 <= seconds <= 2 for seconds in found)
    assert len(set(found)) > 20
    with database.write() as connection:
        assert job_store.wake(connection, ["openai"], NOW + 2) == 40


def test_who_waits_for_a_limit_or_for_another_provider_goes_on_waiting(database: Database) -> None:
    limited = snoozed(database, 3, Outcome.RATE_LIMITED)
    failed = snoozed(database, 3, Outcome.UNKNOWN)
    near = snoozed(database, 3, Outcome.UNKNOWN, seconds=1)
    with database.write() as connection:
        assert recoveries.hasten(connection, "claude", ["openai"], NOW) == 0
        assert recoveries.hasten(connection, "openai", ["claude"], NOW) == 0
        assert recoveries.hasten(connection, "openai", ["openai"], NOW) == 3
    assert [waits(database, batch) for batch in (limited, near)] == [[50.0] * 3, [1.0] * 3]
    assert max(waits(database, failed)) <= 2


def test_how_often_others_were_tried_makes_no_difference(database: Database) -> None:
    batch = snoozed(database, 2, Outcome.FAILED, seconds=0)
    with database.write() as connection:
        job_store.wake(connection, ["openai"], NOW)
    calls = announce(database, *claim(database, most=1))
    calls += announce(database, *claim(database, most=1))
    fail_once_more(database, calls[0])
    with database.write() as connection:
        record(connection, [ending(calls[1], JobStatus.QUEUED, outcome=Outcome.FAILED, not_before=NOW + 50)], 0, NOW)
        assert recoveries.hasten(connection, "openai", ["openai"], NOW) == 2
    assert max(waits(database, batch)) <= 2


def fail_once_more(database: Database, call: Announcement) -> None:
    """A third call of a job, that fails too."""
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.QUEUED, outcome=Outcome.FAILED, not_before=NOW)], 0, NOW)
        job_store.wake(connection, ["openai"], NOW)
    (third,) = announce(database, *claim(database, most=1))
    with database.write() as connection:
        record(connection, [ending(third, JobStatus.QUEUED, outcome=Outcome.UNKNOWN, not_before=NOW + 50)], 0, NOW)


def test_a_job_that_failed_first_and_met_a_limit_then_waits_for_the_limit(database: Database) -> None:
    batch = snoozed(database, 1, Outcome.FAILED, seconds=0)
    with database.write() as connection:
        job_store.wake(connection, ["openai"], NOW)
    (call,) = announce(database, *claim(database))
    with database.write() as connection:
        record(
            connection,
            [ending(call, JobStatus.QUEUED, outcome=Outcome.RATE_LIMITED, not_before=NOW + 50)],
            0,
            NOW,
        )
        assert recoveries.hasten(connection, "openai", ["openai"], NOW) == 0
    assert waits(database, batch) == [50.0]
