"""Suspects: who is left to whom, a few together and then alone, and what a death of their process says about them."""

from __future__ import annotations

from typing import Any

import pytest

from models.database import Database
from models.states import JobStatus
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import suspects
from models.store import workers as worker_store
from models.store.claims import Claimed
from models.store.reruns import Which, rerun
from models.tables import jobs
from tests.making import (
    NOW,
    announce,
    assert_counts_are_true,
    claim,
    job_rows,
    make_batch,
    make_worker,
    statuses,
)

LANES = ["openai"]


def suspect(database: Database, rescues: int, *positions: int) -> None:
    """Makes these jobs ones whose workers died so often."""
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position.in_(positions)).values(rescues=rescues))


def take(database: Database, worker: int, most: int = 64, **more: Any) -> list[int]:
    """The positions of the suspects that such a worker gets."""
    return [job.id - 1 for job in take_jobs(database, worker, most, **more)]


def take_jobs(database: Database, worker: int, most: int = 64, **more: Any) -> list[Claimed]:
    settings = {"provider": "openai", "lanes": LANES, "most_bytes": 1 << 30, "now": NOW, **more}
    with database.write() as connection:
        return suspects.claim(connection, worker_id=worker, most=most, **settings)


def die(database: Database, worker: int) -> suspects.Crash:
    with database.write() as connection:
        return suspects.crashed(connection, worker, "was killed by SIGKILL", NOW)


def waiting(database: Database, lanes: list[str] = LANES) -> bool:
    with database.read() as connection:
        return suspects.waiting(connection, lanes)


def lose(database: Database) -> None:
    """A worker claims all it can get, and dies; others find out."""
    worker = make_worker(database)
    claim(database, worker)
    with database.write() as connection:
        worker_store.remove(connection, [worker])
        job_store.rescue(connection, [worker])


def test_a_job_is_a_suspect_once_two_workers_died_under_it(database: Database) -> None:
    make_batch(database, 3)
    lose(database)
    assert not waiting(database)
    lose(database)
    assert waiting(database)
    assert [row["rescues"] for row in job_rows(database, 1)] == [2, 2, 2]


def test_suspects_and_other_jobs_are_never_claimed_together(database: Database) -> None:
    make_batch(database, 4)
    suspect(database, 2, 0, 2)
    assert take(database, make_worker(database)) == [0, 2]
    assert [job.id - 1 for job in claim(database, make_worker(database))] == [1, 3]


def test_where_only_suspects_wait_nothing_is_claimable_for_others(database: Database) -> None:
    make_batch(database, 2)
    suspect(database, 2, 0, 1)
    with database.read() as connection:
        assert batch_store.runnable(connection, LANES) == []
        assert job_store.waiting_lanes(connection, LANES) == set()


def test_those_that_went_down_among_suspects_are_taken_one_by_one_and_after_all_others(database: Database) -> None:
    make_batch(database, 4)
    suspect(database, 3, 0, 1)
    suspect(database, 2, 2, 3)
    together, alone = make_worker(database), make_worker(database)
    assert take(database, together) == [2, 3]
    assert take(database, together) == [], "nothing runs beside one that is alone, nor the other way round"
    assert take(database, alone) == [0]
    assert take(database, alone) == []
    assert take(database, make_worker(database)) == [1]


def test_no_more_than_a_few_suspects_are_under_way_together(database: Database) -> None:
    make_batch(database, suspects.MOST_TOGETHER + 5)
    suspect(database, 2, *range(suspects.MOST_TOGETHER + 5))
    worker = make_worker(database)
    assert len(take(database, worker, 20)) == 20
    assert len(take(database, worker)) == suspects.MOST_TOGETHER - 20
    assert take(database, worker) == []


def test_two_deaths_with_one_job_alone_make_it_poison_and_harm_no_other(database: Database) -> None:
    batch = make_batch(database, 3)
    suspect(database, 3, 0, 1)
    for crashes, states in ((1, ["queued", "queued", "queued"]), (2, ["failed", "running", "queued"])):
        worker = make_worker(database)
        (job,) = take_jobs(database, worker) if crashes == 1 else [_take_last(database, worker)]
        assert job.id == 1
        announce(database, job)
        found = die(database, worker)
        assert (found.alone, found.crashes, found.rescued) == (1, crashes, 1)
        assert statuses(database, batch) == states
    row = job_rows(database, batch)[0]
    assert (row["error_code"], row["attempts"], row["worker_id"]) == ("poison", 2, None)
    assert "no other row in it (was killed by SIGKILL)" in row["error_message"]
    assert "`truckllm rerun 1 --error poison`" in row["error_message"]
    assert assert_counts_are_true(database, batch).failed == 1
    assert found.ended == batch


def _take_last(database: Database, worker: int) -> Claimed:
    """What is left when those that never died alone are under way elsewhere; they go first."""
    assert take(database, make_worker(database)) == [1]
    (job,) = take_jobs(database, worker)
    return job


def test_a_death_of_several_together_counts_against_none(database: Database) -> None:
    batch = make_batch(database, 3)
    suspect(database, 2, 0, 1, 2)
    worker = make_worker(database)
    assert len(take(database, worker)) == 3
    assert die(database, worker) == suspects.Crash(3)
    assert [(row["rescues"], row["solo_crashes"]) for row in job_rows(database, batch)] == [(3, 0)] * 3


def test_an_ordinary_rescue_counts_against_no_job_that_was_alone(database: Database) -> None:
    """Its parent died, and took it along."""
    batch = make_batch(database, 1)
    suspect(database, 3, 0)
    for _ in range(30):
        worker = make_worker(database)
        assert take(database, worker) == [0]
        with database.write() as connection:
            worker_store.remove(connection, [worker])
            job_store.rescue(connection, None)
    (row,) = job_rows(database, batch)
    assert (row["status"], row["rescues"], row["solo_crashes"]) == ("queued", 33, 0)


def test_a_death_with_nothing_under_way_counts_against_none(database: Database) -> None:
    make_batch(database, 1)
    suspect(database, 3, 0)
    worker = make_worker(database)
    assert die(database, worker) == suspects.Crash(0)
    with database.read() as connection:
        assert worker_store.everyone(connection) == []


def test_what_is_poison_in_a_cancelled_batch_is_cancelled(database: Database) -> None:
    batch = make_batch(database, 1)
    suspect(database, 3, 0)
    with database.write() as connection:
        connection.execute(jobs.update().values(solo_crashes=1))
    worker = make_worker(database)
    assert take(database, worker) == [0]
    with database.write() as connection:
        assert batch_store.cancel(connection, batch)
    assert die(database, worker).ended is None
    assert statuses(database, batch) == ["cancelled"]
    assert assert_counts_are_true(database, batch).cancelled == 1


def test_poison_that_is_rerun_still_runs_alone_and_has_two_tries_again(database: Database) -> None:
    batch = make_batch(database, 1)
    suspect(database, 3, 0)
    for _ in range(suspects.POISON_CRASHES):
        worker = make_worker(database)
        assert take(database, worker) == [0]
        die(database, worker)
    assert statuses(database, batch) == ["failed"]
    with database.write() as connection:
        assert rerun(connection, batch, Which(JobStatus.FAILED, error_code=suspects.POISON)).number == 1
    assert claim(database, make_worker(database)) == []
    worker = make_worker(database)
    assert take(database, worker) == [0]
    assert die(database, worker).crashes == 1


@pytest.mark.parametrize("what", ["paused", "snoozed", "excluded", "too slow"])
def test_a_suspect_is_claimed_only_where_any_job_would_be(database: Database, what: str) -> None:
    batch = make_batch(database, 1, lane="either")
    suspect(database, 2, 0)
    more: dict[str, Any] = {"lanes": ["openai", "either"]}
    with database.write() as connection:
        if what == "paused":
            batch_store.pause(connection, batch, "a person")
        elif what == "snoozed":
            connection.execute(jobs.update().values(not_before=NOW + 1))
        elif what == "excluded":
            connection.execute(jobs.update().values(excluded=",openai,"))
    if what == "too slow":
        more["skip"] = [("either", "gpt-4o")]
    assert take(database, make_worker(database), **more) == []
    assert waiting(database, ["either"]) == (what != "paused")


def test_from_a_withheld_lane_only_suspects_that_others_have_failed_are_taken(database: Database) -> None:
    make_batch(database, 2, lane="either")
    suspect(database, 2, 0, 1)
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position == 1).values(excluded=",gemini,"))
    assert take(database, make_worker(database), withheld=["either"]) == [1]
