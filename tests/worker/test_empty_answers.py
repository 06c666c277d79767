"""Empty answers come to what their batch says, or else the configuration; what is kept is counted, and counted off again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from models.config import Config
from models.database import Database
from models.request import Response, Usage
from models.states import EMPTY_ANSWER, JobStatus, Outcome
from models.store import batches as batch_store
from models.store.recounts import recount
from models.store.reruns import Which, rerun
from models.tables import batches
from tests.making import assert_counts_are_true, attempt_rows, job_rows, make_batch, statuses
from tests.servers import wait_for
from tests.worker.bench import Bench, bench
from tests.worker.scripted import ANSWER, Sent, chats, config, play

DATABASES = ["sqlite"]
EMPTY = Response(b"{}", 200, usage=Usage(5, 2, reported_cost=(7, "USD")), text="", finish_reason="stop", empty=True)


def settings(**worker: object) -> Config:
    return config({"pricing": {"input_token_cost": 1, "output_token_cost": 1}}, **worker)


@pytest.fixture
def worker(database: Database, valkey_url: str) -> Iterator[Bench]:
    with bench(settings(max_attempts=2), database, valkey_url) as one:
        yield one


def batch_with(database: Database, policy: str | None) -> int:
    batch = make_batch(database, chats(2), lane="p")
    with database.write() as connection:
        connection.execute(batches.update().where(batches.c.id == batch).values(empty_answers=policy))
    return batch


def drain(worker: Bench, database: Database, batch: int) -> None:
    """Drains until every job of the batch has ended, also those that wait for their next call."""

    def ended() -> bool:
        worker.drain("p")
        return JobStatus.QUEUED not in statuses(database, batch)

    wait_for(ended, "every job to end")


async def first_empty(sent: Sent) -> Response:
    return EMPTY if sent.prompt == "0" else ANSWER


@pytest.mark.parametrize("policy", [None, "keep"])
def test_a_kept_one_is_an_answer_and_counted(worker: Bench, database: Database, policy: str | None) -> None:
    batch = batch_with(database, policy)
    provider = play(worker, first_empty)
    worker.drain("p")
    assert len(provider.sent) == 2
    assert assert_counts_are_true(database, batch).empty == 1
    rows = attempt_rows(database, batch)
    assert [(row["outcome"], row["error_code"]) for row in rows] == [
        (Outcome.SUCCEEDED, EMPTY_ANSWER),
        (Outcome.SUCCEEDED, None),
    ]
    assert (rows[0]["reported_nanos"], rows[0]["reported_currency"]) == (7, "USD")
    with database.write() as connection:
        recount(connection, batch)
        assert batch_store.counts(connection, batch).empty == 1
        assert rerun(connection, batch, Which(JobStatus.SUCCEEDED)).number == 2
        assert batch_store.counts(connection, batch).empty == 0
    play(worker)
    worker.drain("p")
    assert assert_counts_are_true(database, batch).empty == 0


def test_one_that_is_asked_again_is_paid_again_and_answered(worker: Bench, database: Database) -> None:
    batch = batch_with(database, "retry")
    seen = 0

    async def second_time(sent: Sent) -> Response:
        nonlocal seen
        seen += sent.prompt == "0"
        return EMPTY if sent.prompt == "0" and seen == 1 else ANSWER

    play(worker, second_time)
    drain(worker, database, batch)
    assert statuses(database, batch) == [JobStatus.SUCCEEDED] * 2
    assert assert_counts_are_true(database, batch).empty == 0
    lost = next(row for row in attempt_rows(database, batch) if row["error_code"] == EMPTY_ANSWER)
    assert (lost["outcome"], lost["input_tokens"], lost["cost_nanos"]) == (Outcome.FAILED, 5, 7_000_000)


@pytest.mark.parametrize(("policy", "calls"), [("retry", 2), ("fail", 1)])
def test_one_that_stays_empty_fails_its_job_only(worker: Bench, database: Database, policy: str, calls: int) -> None:
    batch = batch_with(database, policy)
    provider = play(worker, first_empty)
    drain(worker, database, batch)
    jobs = job_rows(database, batch)
    assert [(job["status"], job["error_code"]) for job in jobs] == [("failed", EMPTY_ANSWER), ("succeeded", None)]
    assert provider.prompts.count("0") == calls
    assert worker.runners["p"].engine.told_until == float("-inf")


def test_the_configuration_decides_where_the_batch_says_nothing(database: Database, valkey_url: str) -> None:
    with bench(settings(empty_answers="fail"), database, valkey_url) as worker:
        silent, keeping = batch_with(database, None), batch_with(database, "keep")
        play(worker, first_empty)
        worker.drain("p")
        assert statuses(database, silent) == [JobStatus.FAILED, JobStatus.SUCCEEDED]
        assert statuses(database, keeping) == [JobStatus.SUCCEEDED] * 2


def test_old_rows_without_the_counter_count_as_none(database: Database) -> None:
    batch = make_batch(database, 1)
    with database.read() as connection:
        assert (
            connection.execute(sa.text("SELECT count(*) FROM batch_counts WHERE empty IS NOT NULL")).scalar_one() == 0
        )
        assert batch_store.counts(connection, batch).empty == 0
