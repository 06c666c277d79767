"""Reruns on both databases: only the jobs asked for, in the lane asked for, with counts that stay true and retries counted anew."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from models.database import Database
from models.states import BatchStatus, JobStatus
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import ledger, removals, reruns
from models.store.endings import record
from models.store.reruns import Kind, Which
from models.tables import results
from tests.making import (
    NOW,
    announce,
    assert_counts_are_true,
    attempt_rows,
    batch_status,
    claim,
    ending,
    finish,
    job_rows,
    make_batch,
    new_job,
    statuses,
)
from tests.servers import wait_for

CANCELLED = Which(JobStatus.CANCELLED)


def failed_batch(database: Database, *codes: str) -> int:
    batch = make_batch(database, len(codes))
    calls = announce(database, *claim(database))
    ends = [ending(call, JobStatus.FAILED, error_code=code) for call, code in zip(calls, codes, strict=True)]
    with database.write() as connection:
        record(connection, ends, 0, NOW)
    assert finish(database, batch)
    return batch


def cancelled_batch(database: Database, number: int) -> int:
    batch = make_batch(database, number)
    with database.write() as connection:
        batch_store.cancel(connection, batch)
        assert job_store.cancel_queued(connection, batch, NOW) == number
    return batch


def test_kinds_and_jobs_are_those_of_the_filter(database: Database) -> None:
    batch = failed_batch(database, "a", "b", "a")
    with database.write() as connection:
        assert reruns.kinds(connection, batch, Which(error_code="c")) == []
        assert reruns.kinds(connection, batch, Which(provider="claude")) == []
        assert reruns.kinds(connection, batch, Which(error_code="a")) == [Kind("openai", "gpt-4o", "simple", "chat")]
        assert reruns.rerun(connection, batch, Which(error_code="a", provider="openai")).number == 2
    assert statuses(database, batch) == ["queued", "failed", "queued"]
    assert_counts_are_true(database, batch)


def test_each_kind_goes_to_its_own_place(database: Database) -> None:
    batch = make_batch(database, [new_job(0), new_job(1, model="o3"), new_job(2)])
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED) for call in calls], 0, NOW)
        places = {"gpt-4o": ("claude", "haiku"), "o3": ("smart", "")}
        assert reruns.rerun(connection, batch, place=lambda kind: places[kind.model]).number == 3
    moved = [(row["lane"], row["model"]) for row in job_rows(database, batch)]
    assert moved == [("claude", "haiku"), ("smart", ""), ("claude", "haiku")]
    assert [job.model for job in claim(database, provider="claude")] == ["haiku", "haiku"]


def test_calls_before_a_rerun_count_for_no_retry_and_stay_in_the_ledger(database: Database) -> None:
    batch = failed_batch(database, "http_503")
    (row,) = job_rows(database, batch)
    with database.write() as connection:
        assert len(attempt_store.history(connection, row["id"])) == 1
        reruns.rerun(connection, batch)
        assert attempt_store.history(connection, row["id"]) == []
    announce(database, *claim(database))
    with database.read() as connection:
        assert len(attempt_store.history(connection, row["id"])) == 1
    assert job_rows(database, batch)[0]["attempts"] == 1


def test_a_cancelled_batch_is_revived_only_when_asked_and_only_when_it_has_ended(database: Database) -> None:
    batch = cancelled_batch(database, 3)
    with database.write() as connection:
        assert reruns.rerun(connection, batch, CANCELLED, revive=True).number == 0
    with database.write() as connection:
        assert batch_store.finish_if_done(connection, batch, NOW)
    with database.write() as connection:
        assert reruns.rerun(connection, batch, CANCELLED).number == 0
        assert reruns.rerun(connection, batch, CANCELLED, revive=True, most=2).number == 2
        assert reruns.rerun(connection, batch, CANCELLED).number == 1
    assert batch_status(database, batch) == BatchStatus.RUNNING
    assert assert_counts_are_true(database, batch).left == 3
    assert len(claim(database)) == 3


def test_a_load_that_was_cancelled_half_way_is_never_revived(database: Database) -> None:
    batch = make_batch(database, 2, publish=False)
    with database.write() as connection:
        batch_store.cancel(connection, batch)
        job_store.cancel_queued(connection, batch, NOW)
    with database.write() as connection:
        batch_store.finish_if_done(connection, batch, NOW)
    with database.write() as connection:
        assert reruns.rerun(connection, batch, CANCELLED, revive=True).number == 0


def test_a_paused_batch_stays_paused(database: Database) -> None:
    batch = make_batch(database, 2)
    (call,) = announce(database, *claim(database, most=1))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED)], 0, NOW)
        batch_store.pause(connection, batch, "why")
        assert reruns.rerun(connection, batch).number == 1
    assert batch_status(database, batch) == BatchStatus.PAUSED
    assert claim(database) == []


def answer(database: Database, batch: int, provider: str = "openai") -> None:
    calls = announce(database, *claim(database, provider=provider), provider=provider)
    with database.write() as connection:
        record(connection, [ending(call) for call in calls], 2, NOW + 50)


def test_a_rerun_of_a_rerun_leaves_good_results_and_the_whole_history(database: Database) -> None:
    batch = failed_batch(database, "a", "b", "a")
    with database.write() as connection:
        assert reruns.rerun(connection, batch, Which(custom_ids=("line-2",))).number == 1
    answer(database, batch)
    assert finish(database, batch)
    for _ in range(2):  # in another lane, and there again
        with database.write() as connection:
            assert reruns.rerun(connection, batch, place=lambda kind: ("claude", "haiku")).number == 2
        calls = announce(database, *claim(database, provider="claude"))
        with database.write() as connection:
            record(connection, [ending(call, JobStatus.FAILED) for call in calls], 1, NOW)
        assert finish(database, batch)
    with database.write() as connection:
        assert reruns.rerun(connection, batch).number == 2
    answer(database, batch, "claude")
    assert finish(database, batch)
    assert statuses(database, batch) == ["succeeded"] * 3
    assert [row["attempts"] for row in job_rows(database, batch)] == [4, 2, 4]
    assert len(attempt_rows(database, batch)) == 10, "every call that was ever made for it"
    with database.read() as connection:
        stored = connection.execute(sa.select(results.c.job_id)).scalars().all()
    assert len(stored) == 3


def test_while_a_batch_runs_only_what_had_failed_by_then_is_taken_and_once(database: Database) -> None:
    batch = make_batch(database, 4)
    calls = announce(database, *claim(database, most=3))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED) for call in calls[:2]], 0, NOW)
        record(connection, [ending(calls[2], JobStatus.FAILED)], 0, NOW + 20)
        assert reruns.rerun(connection, batch, before=NOW + 10).number == 2
        assert reruns.rerun(connection, batch, before=NOW + 10).number == 0
    assert statuses(database, batch) == ["queued", "queued", "failed", "queued"]
    again = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED) for call in again], 0, NOW + 20)
        assert reruns.rerun(connection, batch, before=NOW + 10).number == 0, (
            "what failed again at once isn't taken twice"
        )
    assert assert_counts_are_true(database, batch).failed == 4


def test_jobs_are_taken_by_the_model_that_they_asked_for(database: Database) -> None:
    batch = make_batch(database, [new_job(0), new_job(1, model="o3"), new_job(2, model="", lane="smart")])
    jobs = claim(database, lanes=["openai", "smart"])
    calls = announce(database, *jobs)  # the route's candidate is gpt-4o
    with database.write() as connection:
        record(connection, [ending(call, JobStatus.FAILED) for call in calls], 0, NOW)
        assert reruns.spent(connection, batch, Which(model="gpt-4o")) == [("USD", 2, 2000)]
        assert reruns.rerun(connection, batch, Which(model="gpt-4o")).number == 2
    assert statuses(database, batch) == ["queued", "failed", "queued"]


def test_answers_that_are_given_up_keep_their_cost_and_go_elsewhere(database: Database) -> None:
    batch = make_batch(database, 3)
    answer(database, batch)
    assert finish(database, batch)
    succeeded = Which(JobStatus.SUCCEEDED, custom_ids=("line-1", "line-3"))
    with database.write() as connection:
        assert reruns.rerun(connection, batch, succeeded, place=lambda kind: ("claude", "haiku")).number == 2
    assert statuses(database, batch) == ["queued", "succeeded", "queued"]
    with database.read() as connection:
        by_provider = {row["provider"]: row for row in batch_store.spend(connection, batch)}
    assert (by_provider["openai"]["succeeded"], by_provider["openai"]["cost_nanos"]) == (1, 3000)
    answer(database, batch, "claude")
    assert finish(database, batch), "and it adds up"
    with database.read() as connection:
        (before,) = [
            row for row in ledger.spent(connection, ["rerun"], batch_id=batch) if row.group == ("before rerun",)
        ]
    assert (before.calls, before.cost_nanos) == (2, 2000)


def test_a_chunk_goes_on_behind_the_last_one(database: Database) -> None:
    batch = failed_batch(database, "a", "b", "a", "a")
    with database.write() as connection:
        first = reruns.rerun(connection, batch, Which(error_code="a"), most=2)
        assert first == reruns.Requeued(2, 2)
        assert reruns.rerun(connection, batch, after=first.last) == reruns.Requeued(1, 3)
    assert statuses(database, batch) == ["queued", "failed", "queued", "queued"]


@pytest.mark.parametrize("removed", [False, True], ids=["cancelled", "removed"])
def test_a_rerun_doesnt_undo_what_ends_the_batch_at_that_moment(database: Database, removed: bool) -> None:
    batch = failed_batch(database, "a", "a")
    if not removed:
        with database.write() as connection:
            assert reruns.rerun(connection, batch, most=1).number == 1

    def rerun() -> reruns.Requeued:
        with database.write() as connection:
            return reruns.rerun(connection, batch)

    with ThreadPoolExecutor(1) as others:
        with database.write() as connection:
            if removed:
                assert removals.begin(connection, batch, NOW)
            else:
                assert batch_store.cancel(connection, batch)
            late = others.submit(rerun)
            if not database.sqlite:  # there it waits for its turn
                wait_for(lambda: _waits(connection), "the rerun to wait for the batch")
        assert late.result() == reruns.Requeued()
    assert batch_status(database, batch) == (BatchStatus.DELETING if removed else BatchStatus.CANCELLED)


def _waits(connection: sa.Connection) -> bool:
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    return bool(connection.execute(sa.text(waiting)).scalar_one())
