"""Who adds to a batch's sums while another counts them anew or changes their cap: each call counts once, and nobody waits in a circle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import sqlalchemy as sa

from models.database import Database
from models.finalizing import reconcile
from models.prices import Cost
from models.states import BatchStatus, JobStatus, Outcome
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import claims
from models.store import jobs as job_store
from models.store.budgets import cap
from models.store.endings import record
from models.store.recounts import recount
from models.tables import attempts, batch_counts, batch_spend, budgets, metadata
from tests.making import NOW, announce, announcement, batch_status, claim, ending, make_batch, make_worker


@pytest.fixture
def servers(postgres_store: Database) -> Database:
    """PostgreSQL alone, empty: SQLite lets one writer in at a time."""
    with postgres_store.write() as connection:
        names = ", ".join(table.name for table in metadata.sorted_tables)
        connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY"))
    return postgres_store


@contextmanager
def just_before(words: str, act: Callable[[], None]) -> Iterator[None]:
    """Does something else right before the first statement with these words."""
    acted = False

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal acted
        if words in statement and not acted:
            acted = True
            act()

    sa.event.listen(sa.Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", look)
    assert acted, f"nobody said {words!r}"


def waits_or_is_done(database: Database, other: Future[object]) -> None:
    """Waits until another transaction has ended, or waits for a lock."""
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    deadline = time.monotonic() + 60
    while not other.done() and time.monotonic() < deadline:
        with database.read() as connection:
            if connection.execute(query).scalar_one():
                return


def differences(database: Database, batch: int) -> str:
    found = reconcile(database, batch)
    assert found is not None
    return found.sentence


@pytest.mark.parametrize("words", ["INSERT INTO batch_spend", "DELETE FROM batch_spend", "GROUP BY jobs.status"])
def test_a_call_that_ends_no_job_while_its_batch_is_counted_anew_is_counted_once(servers: Database, words: str) -> None:
    batch = make_batch(servers, 3)
    (job, *_) = claim(servers, most=3)
    (call,) = announce(servers, job)

    def refused() -> None:
        with servers.write() as connection:
            spent = ending(call, JobStatus.QUEUED, outcome=Outcome.RATE_LIMITED, cost_nanos=700)
            record(connection, [spent], 5, NOW)

    with ThreadPoolExecutor(1) as others:
        asked: list[Future[object]] = []

        def meanwhile() -> None:
            asked.append(others.submit(refused))
            waits_or_is_done(servers, asked[0])

        with just_before(words, meanwhile), servers.write() as connection:
            recount(connection, batch)
        asked[0].result(60)
    assert differences(servers, batch) == ""


def test_what_a_call_costs_while_its_batch_gets_a_cap_is_in_the_cap(servers: Database) -> None:
    batch = make_batch(servers, 3)
    (job, *_) = claim(servers, most=3)
    (call,) = announce(servers, job)

    def refused() -> None:
        with servers.write() as connection:
            record(connection, [ending(call, JobStatus.QUEUED, outcome=Outcome.REJECTED, cost_nanos=700)], 5, NOW)

    with ThreadPoolExecutor(1) as others:
        asked: list[Future[object]] = []

        def meanwhile() -> None:
            asked.append(others.submit(refused))
            waits_or_is_done(servers, asked[0])

        with just_before("INSERT INTO budgets", meanwhile), servers.write() as connection:
            cap(connection, batch, 10**9, "USD")
        asked[0].result(60)
    assert differences(servers, batch) == ""


def test_a_batch_that_reaches_its_cap_while_it_is_counted_anew_is_paused_a_moment_later(servers: Database) -> None:
    batch = make_batch(servers, 2)
    with servers.write() as connection:
        cap(connection, batch, 1000, "USD")
    first, second = claim(servers, most=2)

    def too_dear(job: claims.Claimed) -> None:
        with servers.write() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '60s'")
            call = replace(announcement(job), may_cost=lambda: Cost(1500, "USD"))
            assert attempt_store.announce(connection, [call], NOW) == set()

    with ThreadPoolExecutor(1) as others:
        asked: list[Future[object]] = []

        def meanwhile() -> None:
            asked.append(others.submit(too_dear, first))
            waits_or_is_done(servers, asked[0])

        with just_before("UPDATE budgets", meanwhile), servers.write() as connection:
            recount(connection, batch)  # holds the batch, and wants the cap that the other holds
        asked[0].result(60)
    too_dear(second)
    assert batch_status(servers, batch) == BatchStatus.PAUSED


def test_calls_that_are_taken_back_hold_no_cap_while_they_wait_for_their_jobs(servers: Database) -> None:
    batch = make_batch(servers, 1)
    make_worker(servers)
    with servers.write() as connection:
        cap(connection, batch, 10_000, "USD")
    (job,) = claim(servers, most=1)
    call = replace(announcement(job), may_cost=lambda: Cost(1500, "USD"))
    with servers.write() as connection:
        assert attempt_store.announce(connection, [call], NOW)
    with servers.write() as connection:
        assert job_store.rescue(connection, [1]) == 1

    def taken_back() -> None:
        with servers.write() as connection:
            attempt_store.unsent(connection, [call.attempt_id])

    with ThreadPoolExecutor(1) as others, servers.write() as connection:
        connection.execute(sa.text("SELECT id FROM jobs FOR UPDATE"))
        asked = others.submit(taken_back)
        waits_or_is_done(servers, asked)
        # the cap is still free for whoever holds the job
        connection.exec_driver_sql("SET LOCAL lock_timeout = '20s'")
        connection.execute(budgets.update().values(most_nanos=budgets.c.most_nanos))
        connection.commit()
        asked.result(60)
    assert differences(servers, batch) == ""


def test_counters_that_are_gone_are_made_anew(database: Database) -> None:
    batch = make_batch(database, 2)
    job, _ = claim(database, most=2)
    (call,) = announce(database, job)
    with database.write() as connection:
        record(connection, [ending(call)], 3, NOW)
        connection.execute(batch_counts.delete())
        connection.execute(batch_spend.delete())
    assert "counted as succeeded" in differences(database, batch)
    with database.write() as connection:
        recount(connection, batch)
    assert differences(database, batch) == ""
    with database.read() as connection:
        assert batch_store.counts(connection, batch).succeeded == 1
        assert connection.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one() == 1
