"""When a provider is back, those that waited because of it come soon, and nobody else."""

from __future__ import annotations

import pytest

from models.database import Database
from models.states import JobStatus, Outcome
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import recoveries
from models.store.attempts import Announcement
from models.store.endings import record
from models.tables import jobs
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


# Who asks early


def scouted(
    database: Database, provider: str = "openai", lanes: tuple[str, ...] = ("openai",), *, after: float
) -> object:
    with database.write() as connection:
        return recoveries.scout(connection, provider, lanes, NOW + after)


def ready(database: Database, batch: int) -> list[int]:
    """Which of its jobs can be claimed, by position."""
    return [row["position"] for row in job_rows(database, batch) if row["not_before"] is None]


def test_one_job_at_a_time_asks_early_and_none_before_five_seconds_have_gone_by(database: Database) -> None:
    batch = snoozed(database, 3, Outcome.FAILED)
    assert scouted(database, after=1) == NOW + recoveries.SOONEST
    assert ready(database, batch) == []
    assert scouted(database, after=5) == NOW + recoveries.SOONEST
    assert len(ready(database, batch)) == 1
    assert scouted(database, after=5) == NOW + recoveries.SOONEST
    assert len(ready(database, batch)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"excluded": ",openai,", "lane": "any"},
        {"rescues": 2},
        {"lane": "claude"},
        {"rerun_epoch": 99},
        {"status": "cancelled"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_who_is_not_the_providers_or_not_everybodys_to_run_is_not_called(
    database: Database, change: dict[str, object]
) -> None:
    batch = snoozed(database, 2, Outcome.FAILED)
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position == 0).values(change))
    for _ in range(2):
        scouted(database, lanes=("openai", "any"), after=5)
    assert ready(database, batch) == [1]


@pytest.mark.parametrize("outcome", [Outcome.RATE_LIMITED, Outcome.UNKNOWN])
def test_who_waits_for_a_limit_or_may_have_to_pay_is_not_called(database: Database, outcome: Outcome) -> None:
    snoozed(database, 2, outcome)
    assert scouted(database, after=5) is None


def test_a_paused_batch_has_nobody_ask(database: Database) -> None:
    batch = snoozed(database, 1, Outcome.FAILED)
    with database.write() as connection:
        assert batch_store.pause(connection, batch, "by hand")
    assert scouted(database, after=5) is None


def test_who_is_due_by_itself_sooner_is_due_then(database: Database) -> None:
    snoozed(database, 1, Outcome.FAILED, seconds=2)
    assert scouted(database, after=1) == NOW + 2
