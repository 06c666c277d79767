"""The ledger's sums: every call once, in its own currency, with what is unknown, unpriced or billed for nothing told apart."""

from __future__ import annotations

import sqlalchemy as sa

from models.config import Config
from models.config_file import load_config_text
from models.database import Database
from models.request import Usage
from models.states import Outcome
from models.store import ledger
from models.tables import attempts
from submit.producer import submit_batch
from tests.worker_by_hand import USAGE, WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: s-1, limit_req_per_min: 1, limit_tokens_per_min: 1}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2, limit_req_per_min: 1, limit_tokens_per_min: 1}]}
"""


def config() -> Config:
    return load_config_text(CONFIG)


def submitted(database: Database, provider: str, number: int) -> int:
    lines = [{"prompt": f"{provider} {n}", "model": "gpt-4o", "provider": provider} for n in range(number)]
    return submit_batch(lines, config=config(), database=database).batch_id


def test_sums_follow_the_dimensions_asked_for(database: Database) -> None:
    one, two = submitted(database, "openai", 2), submitted(database, "claude", 1)
    openai, claude = WorkerByHand(database), WorkerByHand(database, "claude", key_id="cl-1")
    first, second = openai.claim(2)
    openai.succeed(first, model="gpt-4o", cost_nanos=5, started_at=86400.0 * 365 + 1)
    openai.succeed(second, model="gpt-4o-mini", cost_nanos=7, started_at=86400.0 * 366 - 0.1)
    claude.succeed(claude.claim()[0], model="claude-x", cost_nanos=11, started_at=86400.0 * 366)
    with database.read() as connection:

        def costs(*by: str) -> dict[tuple[str, ...], int]:
            return {row.group: row.cost_nanos for row in ledger.spent(connection, by)}

        assert costs("provider") == {("openai",): 12, ("claude",): 11}
        assert costs("model", "key") == {
            ("gpt-4o", "oa-1"): 5,
            ("gpt-4o-mini", "oa-1"): 7,
            ("claude-x", "cl-1"): 11,
        }
        assert costs("batch") == {(str(one),): 12, (str(two),): 11}
        assert costs("day") == {("1971-01-01",): 12, ("1971-01-02",): 11}
        assert costs() == {(): 23}
        assert [row.group for row in ledger.spent(connection, ["batch"], batch_id=two)] == [(str(two),)]


def test_tokens_are_summed_with_their_parts(database: Database) -> None:
    submitted(database, "openai", 2)
    worker = WorkerByHand(database)
    for job in worker.claim(2):
        worker.succeed(job, usage=Usage(100, 20, cached_tokens=30, cache_write_tokens=7, reasoning_tokens=9))
    with database.read() as connection:
        (row,) = ledger.spent(connection, ["provider"])
    assert (row.calls, row.succeeded) == (2, 2)
    assert (row.input_tokens, row.output_tokens, row.cached_tokens) == (200, 40, 60)
    assert (row.cache_write_tokens, row.reasoning_tokens) == (14, 18)


def test_currencies_are_never_added_up(database: Database) -> None:
    submitted(database, "openai", 2)
    worker = WorkerByHand(database)
    first, second = worker.claim(2)
    worker.succeed(first, cost_nanos=5, currency="USD")
    worker.succeed(second, cost_nanos=7, currency="EUR")
    with database.read() as connection:
        rows = ledger.spent(connection, ["provider"])
    assert [(row.currency, row.cost_nanos) for row in rows] == [("EUR", 7), ("USD", 5)]


def test_a_call_without_a_whole_reply_is_unknown_and_in_no_sum(database: Database) -> None:
    submitted(database, "openai", 1)
    worker = WorkerByHand(database)
    worker.drop(worker.claim()[0])
    with database.read() as connection:
        (row,) = ledger.spent(connection, ["provider"])
    assert (row.calls, row.unknown_calls, row.unknown_booked_tokens, row.open_calls) == (1, 1, 100, 0)
    assert (row.cost_nanos, row.input_tokens, row.unpriced_calls) == (0, 0, 0)


def test_a_call_under_way_is_open_until_its_job_belongs_to_another(database: Database) -> None:
    submitted(database, "openai", 1)
    worker = WorkerByHand(database)
    worker.announce(worker.claim()[0])
    with database.read() as connection:
        (row,) = ledger.spent(connection, ["provider"])
    assert (row.open_calls, row.unknown_calls) == (1, 0)
    with database.write() as connection:
        from models.store import jobs

        assert jobs.rescue(connection, [worker.id]) == 1
    with database.read() as connection:
        (row,) = ledger.spent(connection, ["provider"])
    assert (row.open_calls, row.unknown_calls) == (0, 1)


def test_money_for_failed_and_fenced_calls_is_told_apart_and_stays_in_the_cost(database: Database) -> None:
    submitted(database, "openai", 3)
    worker = WorkerByHand(database)
    first, second, third = worker.claim(3)
    worker.succeed(first, cost_nanos=100)
    worker.fail(second, outcome=Outcome.FAILED, usage=USAGE, cost_nanos=30, currency="USD")
    worker.fail(third, outcome=Outcome.FENCED, usage=USAGE, cost_nanos=4, currency="USD")
    with database.read() as connection:
        (row,) = ledger.spent(connection, ["provider"])
    assert (row.cost_nanos, row.failed_nanos, row.failed_billed_calls, row.succeeded) == (134, 34, 2, 1)


def test_tokens_without_a_price_are_unpriced_and_refusals_are_not(database: Database) -> None:
    submitted(database, "openai", 4)
    worker = WorkerByHand(database)
    first, second, third, fourth = worker.claim(4)
    worker.succeed(first, cost_nanos=None, currency=None)
    worker.succeed(second, usage=None, cost_nanos=None, currency=None)
    worker.fail(third, outcome=Outcome.RATE_LIMITED)
    worker.succeed(fourth, cost_nanos=0, currency="USD")
    with database.read() as connection:
        rows = ledger.spent(connection, ["provider"])
    assert sum(row.unpriced_calls for row in rows) == 1
    assert sum(row.untold_calls for row in rows) == 1
    assert sum(row.unpriced_tokens for row in rows) == USAGE.total_tokens


def test_recent_calls_are_those_of_the_batch_that_were_not_turned_down(database: Database) -> None:
    batch = submitted(database, "openai", 4)
    other = submitted(database, "claude", 1)
    worker, claude = WorkerByHand(database), WorkerByHand(database, "claude")
    first, second, third, fourth = worker.claim(4)
    worker.succeed(first, started_at=1000.0)
    worker.announce(second, started_at=1001.0)
    worker.announce(third, started_at=900.0)
    worker.fail(fourth, outcome=Outcome.RATE_LIMITED)
    claude.announce(claude.claim()[0], started_at=1000.0)
    with database.read() as connection:
        assert ledger.calls_since(connection, batch, 950.0) == 2
        assert ledger.calls_since(connection, other, 950.0) == 1


def test_an_answer_without_usage_is_untold_and_not_unpriced(database: Database) -> None:
    submitted(database, "openai", 2)
    worker = WorkerByHand(database)
    first, second = worker.claim(2)
    worker.succeed(first, usage=None, cost_nanos=None, currency=None)
    worker.succeed(second, cost_nanos=None, currency=None)
    with database.read() as connection:
        (row,) = ledger.spent(connection, ["provider"])
    assert (row.calls, row.untold_calls, row.unpriced_calls) == (2, 1, 1)
    assert row.unpriced_tokens == USAGE.input_tokens + USAGE.output_tokens


def test_calls_of_one_model_are_told_apart_by_what_their_cost_was_counted_by(database: Database) -> None:
    batch = submitted(database, "openai", 4)
    worker = WorkerByHand(database)
    for job in worker.claim(3):
        worker.succeed(job, model="gpt-4o", cost_nanos=5)
    worker.succeed(worker.claim()[0], model="gpt-4o", cost_nanos=None)
    with database.write() as connection:
        of_first = sa.select(sa.func.min(attempts.c.id)).scalar_subquery()
        connection.execute(attempts.update().where(attempts.c.id == of_first).values(price="list 1: USD 1.00 in"))
    with database.read() as connection:
        found = {row.group: row.calls for row in ledger.spent(connection, ["model", "price"], batch_id=batch)}
    assert found == {
        ("gpt-4o", "list 1: USD 1.00 in"): 1,
        ("gpt-4o", "not noted"): 2,
        ("gpt-4o", "no cost known"): 1,
    }
