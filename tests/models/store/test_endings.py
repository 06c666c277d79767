"""How calls end: once, in their own epoch, with counts, spend and results in step; late replies are fenced with their tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from models.database import Database
from models.request import Usage
from models.states import BatchStatus, JobStatus, Outcome
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store.endings import Ending, record
from models.tables import results
from tests.making import (
    NOW,
    TEXT,
    USAGE,
    announce,
    assert_counts_are_true,
    attempt_rows,
    claim,
    ending,
    job_rows,
    make_batch,
    statuses,
    without_call,
)


def end(database: Database, *endings: Ending, shard: int = 3) -> set[int]:
    with database.write() as connection:
        return record(connection, endings, shard, NOW + 1)


def spend(database: Database, batch_id: int) -> list[tuple[object, ...]]:
    with database.read() as connection:
        names = ("provider", "currency", "succeeded", "calls", "input_tokens", "output_tokens", "cost_nanos")
        return [tuple(row[name] for name in names) for row in batch_store.spend(connection, batch_id)]


def result_rows(database: Database) -> list[sa.RowMapping]:
    with database.read() as connection:
        return list(connection.execute(sa.select(results).order_by(results.c.job_id)).mappings())


def test_a_success_is_stored_whole_and_counted_in_the_same_transaction(database: Database) -> None:
    batch = make_batch(database, 2)
    call, _ = announce(database, *claim(database))
    assert end(database, ending(call, response=b"\x00raw\xff")) == {batch}
    job = job_rows(database, batch)[0]
    assert (job["status"], job["epoch"], job["worker_id"], job["attempts"]) == ("succeeded", 2, None, 1)
    assert (job["error_code"], job["finished_at"]) == (None, NOW + 1)
    (result,) = result_rows(database)
    assert (result["attempt_id"], result["response"], result["text"]) == (call.attempt_id, b"\x00raw\xff", TEXT)
    assert (result["finish_reason"], result["request_id"]) == ("stop", "req-1")
    assert (result["input_tokens"], result["output_tokens"], result["cached_tokens"]) == (11, 7, 3)
    assert (result["cost_nanos"], result["currency"]) == (1000, "USD")
    attempt = attempt_rows(database, batch)[0]
    assert (attempt["outcome"], attempt["http_status"], attempt["served_model"]) == ("succeeded", 200, "served")
    tokens = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    assert tuple(attempt[name] for name in tokens) == (11, 7, 3, 2, 1)
    assert (attempt["cost_nanos"], attempt["currency"], attempt["latency_ms"]) == (1000, "USD", 5)
    assert spend(database, batch) == [("openai", "USD", 1, 1, 11, 7, 1000)]
    assert assert_counts_are_true(database, batch).succeeded == 1


def test_recording_twice_changes_nothing(database: Database) -> None:
    batch = make_batch(database, 3)
    won, lost, snoozed = announce(database, *claim(database))
    endings = [
        ending(won),
        ending(lost, JobStatus.FAILED),
        ending(snoozed, JobStatus.QUEUED, not_before=NOW + 60),
    ]
    assert end(database, *endings) == {batch}
    before = (job_rows(database, batch), attempt_rows(database, batch), spend(database, batch), result_rows(database))
    assert end(database, *endings) == set()
    assert end(database, *reversed(endings)) == set()
    assert before == (
        job_rows(database, batch),
        attempt_rows(database, batch),
        spend(database, batch),
        result_rows(database),
    )
    assert spend(database, batch) == [("openai", "USD", 1, 3, 33, 21, 3000)]
    assert_counts_are_true(database, batch)


def test_a_reply_that_came_too_late_is_fenced_with_its_real_tokens_and_cost(database: Database) -> None:
    batch = make_batch(database, 1)
    (late,) = announce(database, *claim(database, worker_id=1))
    with database.write() as connection:
        assert job_store.rescue(connection, [1]) == 1
    (again,) = announce(database, *claim(database, worker_id=2), now=NOW + 1)
    assert end(database, ending(late)) == set()
    assert statuses(database, batch) == ["running"]
    assert result_rows(database) == []
    assert end(database, ending(again)) == {batch}
    first, second = attempt_rows(database, batch)
    assert (first["outcome"], first["input_tokens"], first["cost_nanos"]) == (Outcome.FENCED, 11, 1000)
    assert (second["outcome"], second["input_tokens"], second["cost_nanos"]) == (Outcome.SUCCEEDED, 11, 1000)
    assert [row["attempt_id"] for row in result_rows(database)] == [again.attempt_id]
    assert spend(database, batch) == [("openai", "USD", 1, 2, 22, 14, 2000)]
    assert assert_counts_are_true(database, batch).succeeded == 1


def test_a_call_that_never_left_is_no_fenced_one_however_late_that_is_known(database: Database) -> None:
    batch = make_batch(database, 1)
    (late,) = announce(database, *claim(database, worker_id=1))
    with database.write() as connection:
        job_store.rescue(connection, [1])
    unconnected = ending(late, JobStatus.QUEUED, usage=None, cost_nanos=None, error_code="connect_timeout")
    assert unconnected.attempt is not None
    end(database, replace(unconnected, attempt=replace(unconnected.attempt, http_status=None)))
    (row,) = attempt_rows(database, batch)
    assert (row["outcome"], row["error_code"]) == (Outcome.FAILED, "connect_timeout")
    assert statuses(database, batch) == ["queued"]


def test_a_late_reply_is_fenced_even_beside_the_valid_one_of_the_same_job(database: Database) -> None:
    batch = make_batch(database, 1)
    (late,) = announce(database, *claim(database))
    with database.write() as connection:
        job_store.rescue(connection, [1])
    (valid,) = announce(database, *claim(database), now=NOW + 1)
    end(database, ending(late), ending(valid))
    assert [row["outcome"] for row in attempt_rows(database, batch)] == ["fenced", "succeeded"]
    assert spend(database, batch) == [("openai", "USD", 1, 2, 22, 14, 2000)]
    assert [row["attempt_id"] for row in result_rows(database)] == [valid.attempt_id]


def test_a_late_call_without_a_reply_stays_unknown(database: Database) -> None:
    batch = make_batch(database, 1)
    (late,) = announce(database, *claim(database))
    with database.write() as connection:
        job_store.rescue(connection, [1])
    end(database, ending(late, JobStatus.QUEUED, outcome=Outcome.UNKNOWN, usage=None, error_code="timeout"))
    (row,) = attempt_rows(database, batch)
    assert (row["outcome"], row["error_code"]) == ("unknown", "timeout")
    assert spend(database, batch) == []


def test_a_late_reply_cannot_change_a_job_that_was_cancelled(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    with database.write() as connection:
        assert batch_store.cancel(connection, batch)
        job_store.rescue(connection, [1])
    assert statuses(database, batch) == ["cancelled"]
    assert end(database, ending(call)) == set()
    assert statuses(database, batch) == ["cancelled"]
    assert attempt_rows(database, batch)[0]["outcome"] == "fenced"
    assert assert_counts_are_true(database, batch).cancelled == 1


def test_a_call_under_way_in_a_cancelled_batch_is_kept_when_it_succeeds(database: Database) -> None:
    batch = make_batch(database, 2)
    won, lost = announce(database, *claim(database))
    with database.write() as connection:
        assert batch_store.cancel(connection, batch)
        assert job_store.cancel_queued(connection, batch, NOW) == 0
    assert end(database, ending(won)) == {batch}
    assert end(database, ending(lost, JobStatus.QUEUED)) == {batch}
    assert statuses(database, batch) == ["succeeded", "cancelled"]
    assert job_rows(database, batch)[1]["finished_at"] == NOW + 1
    with database.write() as connection:
        assert batch_store.finish_if_done(connection, batch, NOW + 2)
        assert batch_store.get(connection, batch)["status"] == BatchStatus.CANCELLED
    assert_counts_are_true(database, batch)


def test_a_snooze_puts_the_job_back_with_what_it_may_not_do_again(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    assert end(database, ending(call, JobStatus.QUEUED, not_before=NOW + 9, excluded=",openai,")) == set()
    (job,) = job_rows(database, batch)
    assert (job["status"], job["not_before"], job["excluded"]) == ("queued", NOW + 9, ",openai,")
    assert (job["epoch"], job["worker_id"], job["attempts"], job["finished_at"]) == (2, None, 1, None)
    assert (job["error_code"], job["error_message"]) == ("http_500", "it failed")


def test_a_job_that_fails_without_a_call_costs_nothing_and_has_no_attempt(database: Database) -> None:
    batch = make_batch(database, 1)
    (job,) = claim(database)
    assert end(database, without_call(job)) == {batch}
    (row,) = job_rows(database, batch)
    assert (row["status"], row["error_code"], row["attempts"]) == ("failed", "too_large", 0)
    assert attempt_rows(database, batch) == []
    assert spend(database, batch) == []
    assert assert_counts_are_true(database, batch).failed == 1


def test_money_is_summed_by_provider_and_currency_and_never_across(database: Database) -> None:
    batch = make_batch(database, 4)
    dollars, euros, unpriced, silent = announce(database, *claim(database))
    end(
        database,
        ending(dollars, cost_nanos=5),
        ending(euros, cost_nanos=7, currency="EUR"),
        ending(unpriced, cost_nanos=None, currency=None),
        ending(silent, usage=None),
    )
    assert spend(database, batch) == [
        ("openai", "", 2, 2, 11, 7, 0),
        ("openai", "EUR", 1, 1, 11, 7, 7),
        ("openai", "USD", 1, 1, 11, 7, 5),
    ]


def test_spend_of_several_workers_adds_up(database: Database) -> None:
    batch = make_batch(database, 3)
    for shard, call in zip((1, 17, 2), announce(database, *claim(database)), strict=True):
        end(database, ending(call, usage=Usage(10**12, 1), cost_nanos=10**15), shard=shard)
    assert spend(database, batch) == [("openai", "USD", 3, 3, 3 * 10**12, 3, 3 * 10**15)]
    assert assert_counts_are_true(database, batch).succeeded == 3


def test_calls_of_several_batches_end_in_one_transaction(database: Database) -> None:
    batches = [make_batch(database, 2) for _ in range(3)]
    calls = announce(database, *claim(database))
    keep_back = calls.pop()
    assert end(database, *map(ending, calls)) == set(batches)
    assert end(database, ending(keep_back)) == {keep_back.batch_id}
    for batch in batches:
        assert assert_counts_are_true(database, batch).left == 0


def test_unknown_stays_in_the_ledger_until_the_reply_is_known(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    end(database, ending(call, JobStatus.QUEUED, outcome=Outcome.UNKNOWN, usage=None, error_code="timeout"))
    (row,) = attempt_rows(database, batch)
    assert (row["outcome"], row["error_code"], row["input_tokens"]) == ("unknown", "timeout", None)
    assert row["finished_at"] is not None


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED])
def test_nothing_moves_a_job_that_has_ended(database: Database, status: JobStatus) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    end(database, ending(call, status))
    before = job_rows(database, batch)
    with database.write() as connection:
        job_store.give_back(connection, {call.job_id: call.epoch, call.job_id + 99: 1})
        assert job_store.rescue(connection, [1]) == 0
        assert job_store.rescue(connection, None) == 0
        assert job_store.wake(connection, ["openai"], NOW + 1e6) == 0
    for other in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.QUEUED):
        assert end(database, ending(call, other)) == set()
    assert claim(database) == []
    assert job_rows(database, batch) == before
    assert len(result_rows(database)) == (status == JobStatus.SUCCEEDED)


def test_the_ledger_keeps_usage_of_calls_that_gave_no_answer(database: Database) -> None:
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    end(database, ending(call, JobStatus.FAILED, outcome=Outcome.REJECTED, error_code="content_filter"))
    (row,) = attempt_rows(database, batch)
    assert (row["outcome"], row["input_tokens"], row["cost_nanos"]) == ("rejected", USAGE.input_tokens, 1000)
    assert spend(database, batch) == [("openai", "USD", 0, 1, 11, 7, 1000)]
