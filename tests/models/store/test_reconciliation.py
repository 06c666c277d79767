"""What a reconciliation finds on both databases: nothing in a batch that really ran, and every way in which rows can contradict."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database
from models.finalizing import reconcile
from models.packing import Packer
from models.prices import Cost
from models.states import JobStatus, Outcome
from models.store import answers, claims, reconciliation, reruns
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store.books import Books
from models.store.budgets import cap
from models.store.endings import UNSTORABLE, record
from models.store.reconciliation import NAMED
from models.tables import attempts, batch_counts, batch_spend, batches, budgets, job_inputs, jobs, results
from tests.making import NOW, announce, announcement, claim, ending, make_batch, prove, without_call


def books(database: Database, batch: int, named: int = NAMED) -> Books:
    found = reconcile(database, batch, named=named)
    assert found is not None
    return found


def checks(database: Database, batch: int) -> list[str]:
    return [difference.check for difference in books(database, batch).differences]


def worked(database: Database) -> int:
    """A batch with jobs in every state and calls of every kind: answered, failed, refused, lost, fenced, rerun, rescued."""
    batch = make_batch(database, 12)
    with database.write() as connection:
        cap(connection, batch, 10**12, "USD")
        prove(connection, batch)
    first = claim(database, most=9)
    calls = [announcement(job) for job in first]
    with database.write() as connection:
        attempt_store.announce(connection, [], NOW)
        assert attempt_store.announce(connection, priced(calls), NOW) == {call.attempt_id for call in calls}
    won, also, failed, refused, lost, late, again, stored, out = calls
    with database.write() as connection:
        record(
            connection,
            [
                ending(won),
                ending(also, usage=None),
                ending(failed, JobStatus.FAILED, cost_nanos=300),
                ending(refused, JobStatus.QUEUED, outcome=Outcome.RATE_LIMITED, usage=None, not_before=NOW + 5),
                ending(lost, JobStatus.FAILED, outcome=Outcome.UNKNOWN, usage=None),
                ending(again),
                ending(stored, JobStatus.FAILED, outcome=Outcome.SUCCEEDED, error_code=UNSTORABLE),
            ],
            3,
            NOW,
        )
        job_store.rescue(connection, [1], most=1)
    with database.write() as connection:
        record(connection, [ending(late), ending(out, JobStatus.QUEUED)], 5, NOW)
        assert reruns.rerun(connection, batch, reruns.Which(JobStatus.SUCCEEDED, custom_ids=("line-7",))).number == 1
        assert reruns.rerun(connection, batch, reruns.Which(error_code=UNSTORABLE)).number == 1
        record(connection, [without_call(job) for job in claim_in(connection, 1)], 1, NOW)
    claim(database, most=1)
    return batch


def priced(calls: list[Any]) -> list[Any]:
    return [replace(call, may_cost=lambda: Cost(1500, "USD")) for call in calls]


def claim_in(connection: sa.Connection, most: int) -> list[claims.Claimed]:
    return claims.claim(
        connection, provider="openai", lanes=["openai"], worker_id=1, most=most, most_bytes=1 << 30, now=NOW
    )


def test_a_batch_at_work_adds_up_whatever_happened_to_its_jobs(database: Database) -> None:
    batch = worked(database)
    found = books(database, batch)
    assert found.sentence == ""
    assert sum(found.jobs.values()) == found.total == 12
    assert found.open > 0
    outcomes = {calls.outcome for calls in found.calls}
    assert outcomes == {"succeeded", "failed", "rate_limited", "unknown", "fenced"}
    assert sum(calls.cost_nanos for calls in found.calls) > 0


def test_a_batch_of_several_chunks_is_read_whole(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "CHUNK", 5)
    batch = worked(database)
    found = books(database, batch)
    assert found.sentence == ""
    assert sum(found.jobs.values()) == 12


def test_a_load_and_an_empty_batch_add_up(database: Database) -> None:
    assert checks(database, make_batch(database, 3, publish=False)) == []
    assert checks(database, make_batch(database, 0)) == []


def test_a_batch_that_ended_without_a_call_adds_up(database: Database) -> None:
    batch = make_batch(database, 3)
    claim(database, most=1)
    with database.write() as connection:
        batch_store.cancel(connection, batch)
        job_store.cancel_queued(connection, batch, NOW)
        job_store.give_back(connection, job_store.orphans(connection, 1))
    assert checks(database, batch) == []


def _job(**values: Any) -> Any:
    return lambda first: jobs.update().where(jobs.c.id == first.job_id).values(**values)


def _result(**values: Any) -> Any:
    return lambda first: results.update().where(results.c.job_id == first.job_id).values(**values)


def _call(**values: Any) -> Any:
    return lambda first: attempts.update().where(attempts.c.id == first.attempt_id).values(**values)


BROKEN: dict[str, tuple[Any, list[str]]] = {
    "an input is gone": (lambda one: job_inputs.delete().where(job_inputs.c.job_id == one.job_id), ["no_input"]),
    "no time of an end": (_job(finished_at=None), ["no_end"]),
    "the result is gone": (
        lambda one: results.delete().where(results.c.job_id == one.job_id),
        ["no_result", "lost_answer", "sums"],
    ),
    "a failed job has a result": (_job(status="failed", error_code="x"), ["odd_result", "counters"]),
    "a failed job says nothing": (_job(status="failed"), ["no_reason", "odd_result", "counters"]),
    "an open job has ended": (_job(status="queued"), ["early_end", "odd_result", "counters"]),
    "the result is of another job's call": (_result(attempt_id=2), ["wrong_call", "lost_answer", "sums"]),
    "the result is of no call": (_result(attempt_id=0), ["wrong_call", "lost_answer", "sums"]),
    "the call failed": (_call(outcome="failed"), ["wrong_call"]),
    "other tokens": (_result(output_tokens=8), ["other_cost"]),
    "another cost": (_result(cost_nanos=None), ["other_cost"]),
    "the ledger changed": (_call(cost_nanos=2000), ["other_cost", "sums", "budget_spent"]),
    "a call of the future": (_call(epoch=99), ["future_call"]),
    "a call without an end": (_call(finished_at=None), ["endless_call"]),
    "a call of another batch": (_call(batch_id=77), ["wrong_call", "strange_call"]),
    "a call of no job": (_call(job_id=10**9), ["wrong_call", "sums", "orphan_call", "budget_spent"]),
    "a job is gone": (
        lambda one: jobs.delete().where(jobs.c.id == one.job_id),
        ["total", "positions", "counters", "sums", "orphan_call", "budget_spent"],
    ),
    "a job too few was counted": (
        lambda one: batch_counts.update().where(batch_counts.c.shard == 0).values(succeeded=1),
        ["counters"],
    ),
    "other sums": (lambda one: batch_spend.update().values(calls=batch_spend.c.calls + 1), ["sums"]),
    "a line too many": (lambda one: batches.update().values(total=3), ["total"]),
    "a gap": (_job(position=5), ["positions"]),
    "the cap forgot a call": (lambda one: budgets.update().values(spent_nanos=1000), ["budget_spent"]),
    "the cap reserves for nobody": (lambda one: budgets.update().values(reserved_nanos=7), ["budget_reserved"]),
    "completed without a time": (
        lambda one: batches.update().values(status="completed"),
        ["batch_end"],
    ),
}
"""What may be wrong with the first of two jobs that have succeeded, and by which checks it is found."""


@pytest.mark.parametrize("wrong", BROKEN)
def test_whatever_contradicts_is_found(database: Database, wrong: str) -> None:
    change, expected = BROKEN[wrong]
    batch = make_batch(database, 2)
    with database.write() as connection:
        cap(connection, batch, 10**12, "USD")
    calls = priced([announcement(job) for job in claim(database)])
    with database.write() as connection:
        attempt_store.announce(connection, calls, NOW)
        record(connection, [ending(call) for call in calls], 0, NOW)
    assert checks(database, batch) == []
    with database.write() as connection:
        connection.execute(change(calls[0]))
    found = books(database, batch)
    assert list(dict.fromkeys(difference.check for difference in found.differences)) == expected
    of_a_job = {
        "no_input",
        "no_end",
        "no_result",
        "odd_result",
        "other_cost",
        "wrong_call",
        "future_call",
        "lost_answer",
    }
    for difference in found.differences:
        if difference.check in of_a_job:
            assert (difference.number, difference.custom_ids) == (1, ("line-1",))


@pytest.mark.parametrize("status", ["completed", "finalizing"])
def test_a_batch_that_has_ended_has_no_open_jobs(database: Database, status: str) -> None:
    batch = make_batch(database, 2)
    with database.write() as connection:
        connection.execute(batches.update().values(status=status, finished_at=NOW))
    assert checks(database, batch) == ["open_jobs"]


def test_only_so_many_jobs_are_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliation, "CHUNK", 4)
    batch = make_batch(database, 10)
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call) for call in calls], 0, NOW)
        connection.execute(jobs.update().values(finished_at=None))
    (found,) = books(database, batch, named=6).differences
    assert (found.number, found.custom_ids) == (10, tuple(f"line-{n}" for n in range(1, 7)))


def test_what_no_program_writes_is_told_of_a_batch_on_both_databases(database: Database) -> None:
    batch = worked(database)
    kept = sa.select(sa.func.min(results.c.job_id)).scalar_subquery()
    with database.write() as connection:
        connection.execute(results.update().where(results.c.job_id == kept).values(response=b"\x28\xb5\x2frubbish"))
        connection.execute(jobs.update().where(jobs.c.position == 11).values(status="asleep"))
        connection.execute(attempts.update().where(attempts.c.outcome == Outcome.FENCED).values(latency_ms=-5))
        connection.execute(attempts.update().where(attempts.c.outcome == Outcome.UNKNOWN).values(outcome="lost"))
        connection.execute(batches.update().values(status="tired"))
    found = {difference.check: difference for difference in books(database, batch).differences}
    assert found.keys() >= {"unreadable", "odd_state", "negative", "odd_outcome", "batch_state"}
    assert found["odd_state"].custom_ids == ("line-12",)
    assert books(database, batch).jobs["asleep"] == 1


@pytest.mark.parametrize("column", ["response", "text"])
@pytest.mark.parametrize("spoiled", ["cut", "changed"])
def test_an_answer_that_is_damaged_behind_its_beginning_is_found_and_named(
    database: Database, monkeypatch: pytest.MonkeyPatch, column: str, spoiled: str
) -> None:
    monkeypatch.setattr(answers, "READ_ROWS", 2)
    batch = make_batch(database, 5)
    packed = Packer()(b"an answer that is long enough to be damaged in its middle")
    damage = packed[:-3] if spoiled == "cut" else packed[:30] + bytes([packed[30] ^ 1]) + packed[31:]
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(connection, [ending(call, response=packed) for call in calls], 0, NOW)
        for call in (calls[0], calls[3], calls[4]):
            connection.execute(results.update().where(results.c.job_id == call.job_id).values({column: damage}))
    (found,) = books(database, batch, named=2).differences
    assert (found.check, found.number, found.custom_ids) == ("unreadable", 3, ("line-1", "line-4"))


def test_answers_are_read_a_few_at_a_time_and_a_big_one_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "READ_BYTES", 400)
    monkeypatch.setattr(answers, "READ_ROWS", 3)
    batch = make_batch(database, 9)
    big = Packer()(random.Random(1).randbytes(2000))
    calls = announce(database, *claim(database))
    with database.write() as connection:
        record(
            connection, [ending(call, **({"response": big} if n == 4 else {})) for n, call in enumerate(calls)], 0, NOW
        )
    with database.snapshot() as connection:
        portions = list(answers.portions(connection, (jobs.c.batch_id == batch,), calls[0].job_id, calls[-1].job_id))
    assert [len(portion) for portion in portions] == [3, 1, 1, 3, 1]
    assert checks(database, batch) == []


@pytest.mark.parametrize("position", [2**62, 2**63 - 1, -(2**63), -7])
def test_a_position_anywhere_is_found_in_few_steps(database: Database, position: int) -> None:
    batch = worked(database)
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.position == 11).values(position=position))
    assert "positions" in checks(database, batch)


@pytest.mark.parametrize(
    ("table", "column", "value", "told"),
    [
        (jobs, "position", "'seven'", "1 row of jobs holds no whole number in position"),
        (batches, "total", "9e999", "batches holds no whole number in total"),
        (attempts, "input_tokens", "'1e999'", "attempts hold no whole number in input_tokens"),
        (batch_counts, "succeeded", str(2**63 - 1), "can't be summed"),
        (budgets, "spent_nanos", "''", "budgets holds no whole number in spent_nanos"),
        (batch_spend, "currency", "x'fffe'", "hold no text in currency"),
    ],
)
def test_a_damaged_value_is_named_instead_of_being_stumbled_over(
    sqlite_store: Path, tmp_path: Path, table: sa.Table, column: str, value: str, told: str
) -> None:
    shutil.copy(sqlite_store, tmp_path / "damaged.db")
    database = Database(f"sqlite:///{tmp_path}/damaged.db")
    batch = worked(database)
    with database.write() as connection:
        connection.exec_driver_sql(f"UPDATE OR IGNORE {table.name} SET {column} = {value}")
    assert told in books(database, batch).sentence
    database.close()
