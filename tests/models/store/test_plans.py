"""What runs again and again finds its rows by the index made for it, in a batch that is mostly done, on both databases."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.database import Database
from models.states import JobStatus
from models.store import batches as batch_store
from models.store import claims, outcomes, recoveries, reruns, suspects
from models.store import jobs as job_store
from models.tables import batches, jobs
from tests.making import NOW, make_batch, make_worker

JOBS = 20_000
LANES = ["openai", "either"]
GONE = 99
"""A worker that isn't there any more."""

Work = Callable[..., object]

QUERIES: dict[str, tuple[Work, set[str]]] = {
    "claim": (
        lambda connection, batch: claims.claim(
            connection,
            provider="openai",
            lanes=["openai"],
            withheld=["either"],
            worker_id=1,
            most=2000,
            most_bytes=1 << 30,
            now=NOW,
        ),
        {"ix_jobs_claimable", "ix_jobs_passed_on"},
    ),
    "runnable": (lambda connection, batch: batch_store.runnable(connection, LANES), {"ix_jobs_claimable"}),
    "waiting_lanes": (lambda connection, batch: job_store.waiting_lanes(connection, LANES), {"ix_jobs_claimable"}),
    "wake": (lambda connection, batch: job_store.wake(connection, LANES, NOW), {"ix_jobs_snoozed"}),
    "pull_in": (lambda connection, batch: job_store.pull_in(connection, LANES, NOW - 600), {"ix_jobs_snoozed"}),
    "next_due": (lambda connection, batch: job_store.next_due(connection, LANES), {"ix_jobs_snoozed"}),
    "rescue of the dead": (lambda connection, batch: job_store.rescue(connection, [GONE]), {"ix_jobs_running"}),
    "rescue of the unknown": (lambda connection, batch: job_store.rescue(connection, None), {"ix_jobs_running"}),
    "orphans": (lambda connection, batch: job_store.orphans(connection, GONE), {"ix_jobs_running"}),
    "give_back": (
        lambda connection, batch: job_store.give_back(connection, job_store.orphans(connection, GONE)),
        {"ix_jobs_running"},
    ),
    "in_flight": (lambda connection, batch: job_store.in_flight(connection, batch), {"ix_attempts_open"}),
    "cancel_queued": (
        lambda connection, batch: (
            batch_store.cancel(connection, batch),
            job_store.cancel_queued(connection, batch, NOW),
        ),
        {"ix_jobs_claimable", "ix_jobs_snoozed"},
    ),
    "queued_lanes": (
        lambda connection, batch: outcomes.queued_lanes(connection, batch),
        {"ix_jobs_claimable", "ix_jobs_snoozed"},
    ),
    "failed jobs": (
        lambda connection, batch: (
            outcomes.listing(connection, batch, status=JobStatus.FAILED, most=20),
            outcomes.listing(connection, batch, status=JobStatus.FAILED, after=JOBS + 120, most=20),
            outcomes.failures(connection, batch),
            reruns.kinds(connection, batch, reruns.Which(error_code="http_500")),
            reruns.spent(connection, batch, reruns.Which()),
        ),
        {"ix_jobs_failed"},
    ),
    "suspects": (
        lambda connection, batch: (
            suspects.waiting(connection, LANES),
            suspects.claim(
                connection,
                provider="openai",
                lanes=["openai"],
                withheld=["either"],
                worker_id=GONE + 1,
                most=64,
                most_bytes=1 << 30,
                now=NOW,
            ),
        ),
        {"ix_jobs_suspects", "ix_jobs_running"},
    ),
    "hasten": (
        lambda connection, batch: recoveries.hasten(connection, "openai", LANES, NOW - 600),
        {"ix_jobs_snoozed", "uq_attempts_job_epoch"},
    ),
    "waits_for_any": (
        lambda connection, batch: outcomes.waits_for_any(connection, batch, "either", ["claude"]),
        {"ix_jobs_claimable", "ix_jobs_snoozed"},
    ),
}
"""What is asked of a batch, and the indexes by which it finds jobs and calls."""

WALKS = {"all of them", "uq_jobs_batch_position", "uq_jobs_batch_custom"}
"""Ways that lead past every job of a batch, those that have ended too."""


@pytest.fixture
def late(database: Database) -> tuple[Database, int]:
    """A batch that is nearly done, with jobs in every state, beside one that was cancelled."""
    make_worker(database)
    batch = make_batch(database, 0)
    fill(database, batch, JOBS, "succeeded")
    fill(database, batch, 50, "running", worker_id="1")
    fill(database, batch, 50, "running", worker_id=str(GONE))
    fill(database, batch, 100, "failed")
    fill(database, batch, 300, "queued", not_before=f"{NOW} + i - 20")
    fill(database, batch, 40, "queued", lane="either", excluded="',claude,'")
    fill(database, batch, 20, "queued", rescues="2 + (i & 1)")
    fill(database, batch, 1000, "queued")
    cancelled = make_batch(database, 0)
    fill(database, cancelled, JOBS // 2, "cancelled")
    with database.write() as connection:
        batch_store.cancel(connection, cancelled)
        connection.exec_driver_sql(
            "INSERT INTO attempts (id, job_id, batch_id, epoch, provider, key_id, requested_model, outcome, started_at) "
            "SELECT id, id, batch_id, epoch, 'openai', 'k', 'gpt-4o', "
            f"CASE WHEN status = 'running' THEN 'unknown' ELSE 'succeeded' END, {NOW} "
            "FROM jobs WHERE status IN ('running', 'succeeded')"
        )
    if not database.sqlite:  # as autovacuum does; SQLite keeps no statistics unless it is told to
        with database.engine.connect() as raw:
            raw.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))
    return database, batch


def fill(database: Database, batch: int, number: int, status: str, lane: str = "openai", **more: str) -> None:
    """Adds jobs to a batch in bulk; `more` are SQL expressions of `i`."""
    columns = {"excluded": "''", "not_before": "NULL", "worker_id": "NULL"} | more
    count = f"WITH RECURSIVE g(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM g WHERE i < {number - 1}) " * database.sqlite
    source = "g" if database.sqlite else f"generate_series(0, {number - 1}) AS g(i)"
    with database.write() as connection:
        first = connection.execute(sa.select(sa.func.count()).where(jobs.c.batch_id == batch)).scalar_one()
        connection.exec_driver_sql(
            "INSERT INTO jobs (batch_id, position, custom_id, lane, model, status, input_bytes, created_at, "
            f"{', '.join(columns)}) {count} SELECT {batch}, {first} + i, CAST({first} + i AS text), '{lane}', 'gpt-4o', "
            f"'{status}', 60, 1, {', '.join(columns.values())} FROM {source}"
        )
        connection.exec_driver_sql(
            "INSERT INTO job_inputs (job_id, body, dialect, operation) SELECT id, '{}', 'simple', 'chat' FROM jobs "
            f"WHERE batch_id = {batch} AND position >= {first} AND status = 'queued'"
        )
        connection.execute(batches.update().where(batches.c.id == batch).values(total=first + number, status="running"))


def statements(database: Database, work: Callable[[Connection], object]) -> list[tuple[str, Any]]:
    """All statements about jobs that `work` runs, with their parameters; nothing of it stays."""
    seen: list[tuple[str, Any]] = []

    def see(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if "jobs" in statement and not many:
            seen.append((statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", see)
    try:
        with database.engine.connect() as connection:
            work(connection)
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", see)
    return seen


def plan(connection: Connection, statement: str, parameters: Any) -> list[str]:
    """How the database would go about it, a line a step."""
    word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    return [str(row[-1]) for row in connection.exec_driver_sql(f"{word} {statement}", parameters)]


SQLITE = re.compile(
    r"(?:SEARCH|SCAN) (?:jobs|attempts)\b(?: USING (?:COVERING )?(?:INDEX (\w+)|(INTEGER PRIMARY KEY)))?"
)
POSTGRES = re.compile(r"(?:Index(?: Only)? Scan(?: Backward)? using (\w+)|(Seq) Scan) on (?:jobs|attempts)\b")
BITMAP = re.compile(r"Bitmap Index Scan on (\w*(?:jobs|attempts)\w*)")


def paths(steps: list[str]) -> set[str]:
    """The indexes by which jobs and attempts are read; "all of them" where it is without one."""
    found = set()
    for step in steps:
        if match := BITMAP.search(step):
            found.add(match[1])
        elif match := SQLITE.search(step):
            found.add(match[1] or match[2] or "all of them")
        elif match := POSTGRES.search(step):
            found.add(match[1] or "all of them")
    return found


def test_jobs_are_found_by_the_indexes_made_for_it(late: tuple[Database, int]) -> None:
    database, batch = late
    for name, (work, wanted) in QUERIES.items():
        used: set[str] = set()
        asked = statements(database, functools.partial(work, batch=batch))
        with database.read() as connection:
            for statement, parameters in asked:
                steps = plan(connection, statement, parameters)
                used |= paths(steps)
                assert used.isdisjoint(WALKS), (name, statement, steps)
        assert used >= wanted, name
