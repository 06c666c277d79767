"""Makes batches, workers and calls in a database for tests, by the store's own functions.

It checks nothing; what a test does with them is the test's business.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
import zstandard
from sqlalchemy.engine import Connection

from models.database import Database
from models.finalizing import ended, finalize, reconcile
from models.request import Usage
from models.states import BatchStatus, JobStatus, Outcome
from models.store import attempts as attempt_store
from models.store import batches as batch_store
from models.store import claims
from models.store import workers as worker_store
from models.store.attempts import Announcement
from models.store.batches import NewJob
from models.store.claims import Claimed
from models.store.endings import Answer, AttemptEnd, Ending
from models.tables import attempts, batches, budget_estimates, jobs

NOW = 1_800_000_000.0
USAGE = Usage(input_tokens=11, output_tokens=7, cached_tokens=3, cache_write_tokens=2, reasoning_tokens=1)

_numbers = itertools.count(1)

REPLY, TEXT = map(zstandard.ZstdCompressor(level=1).compress, (b"reply", b"text"))
"""An answer as it is stored."""


def new_job(position: int, *, lane: str = "openai", model: str = "gpt-4o", body: bytes | None = None) -> NewJob:
    """A simple line's job."""
    prompt = json.dumps({"prompt": f"question {position}"}).encode()
    return NewJob(position, f"line-{position + 1}", lane, model, prompt if body is None else body, "simple", "chat")


def make_batch(
    database: Database,
    new: int | Sequence[NewJob] = 1,
    *,
    priority: int = 0,
    lane: str = "openai",
    publish: bool = True,
) -> int:
    """A batch of so many jobs, or of these; queued unless `publish` is False."""
    rows = [new_job(n, lane=lane) for n in range(new)] if isinstance(new, int) else list(new)
    sha = f"{next(_numbers):064x}"
    with database.write() as connection:
        batch_id = batch_store.create(
            connection,
            name="b",
            input_name="b.jsonl",
            sha256=sha,
            options_hash="o",
            defaults="{}",
            priority=priority,
            again=0,
            loader="me",
            now=NOW,
        )
        assert batch_store.add_jobs(connection, batch_id, "me", rows, NOW)
        if publish:
            assert batch_store.publish(connection, batch_id, "me")
    return batch_id


def make_worker(database: Database, *, host: str = "h", queues: Sequence[str] = ("openai",)) -> int:
    """A registered worker's number."""
    with database.write() as connection:
        return worker_store.register(
            connection,
            host=host,
            boot_id="boot",
            pid=1,
            pid_started=0.0,
            queues=queues,
            config_hash="",
            now=NOW,
        )


def claim(
    database: Database,
    worker_id: int = 1,
    *,
    most: int = 64,
    most_bytes: int = 1 << 30,
    provider: str = "openai",
    lanes: Sequence[str] = (),
    **others: Any,
) -> list[Claimed]:
    """Claims for a provider, from its own lane unless `lanes` says which."""
    with database.write() as connection:
        return claims.claim(
            connection,
            provider=provider,
            lanes=lanes or [provider],
            worker_id=worker_id,
            most=most,
            most_bytes=most_bytes,
            now=NOW,
            **others,
        )


def announcement(job: Claimed, *, provider: str = "openai", key_id: str = "key-1") -> Announcement:
    """A call for a claimed job, under a number of its own."""
    return Announcement(next(_numbers), job.id, job.batch_id, job.epoch, provider, key_id, job.model or "gpt-4o", 100)


def announce(database: Database, *jobs_: Claimed, now: float = NOW, provider: str = "openai") -> list[Announcement]:
    """Announces calls for claimed jobs; all of them must be let go."""
    calls = [announcement(job, provider=provider) for job in jobs_]
    with database.write() as connection:
        assert attempt_store.announce(connection, calls, now) == {call.attempt_id for call in calls}
    return calls


def prove(
    connection: Connection, batch_id: int, *, provider: str = "openai", model: str = "gpt-4o", kept: int = 10**6
) -> None:
    """Makes a capped batch's estimates for a model count as proven, as so many answers do."""
    connection.execute(
        budget_estimates.insert().values(batch_id=batch_id, provider=provider, model=model, kept=kept, excess_nanos=0)
    )


def ending(
    call: Announcement,
    status: JobStatus = JobStatus.SUCCEEDED,
    *,
    outcome: Outcome | None = None,
    usage: Usage | None = USAGE,
    cost_nanos: int | None = 1000,
    currency: str | None = "USD",
    response: bytes = REPLY,
    error_code: str | None = None,
    not_before: float | None = None,
    excluded: str = "",
) -> Ending:
    """How an announced call ended."""
    won = status == JobStatus.SUCCEEDED
    end = AttemptEnd(
        attempt_id=call.attempt_id,
        provider=call.provider,
        outcome=outcome or (Outcome.SUCCEEDED if won else Outcome.FAILED),
        http_status=200 if won else 500,
        error_code=None if won else error_code or "http_500",
        served_model="served",
        usage=usage,
        cost_nanos=cost_nanos if usage else None,
        currency=currency if usage else None,
        latency_ms=5,
        finished_at=NOW + 1,
    )
    return Ending(
        job_id=call.job_id,
        batch_id=call.batch_id,
        epoch=call.epoch,
        status=status,
        attempt=end,
        answer=Answer(response, TEXT, "stop", "req-1") if won else None,
        error_code=None if won else error_code or "http_500",
        error_message=None if won else "it failed",
        not_before=not_before,
        excluded=excluded,
    )


def without_call(job: Claimed, code: str = "too_large") -> Ending:
    """The ending of a job that failed without a call."""
    return Ending(job.id, job.batch_id, job.epoch, JobStatus.FAILED, error_code=code, error_message="no")


def with_epoch(call: Announcement, epoch: int) -> Announcement:
    """The same call as another epoch's."""
    return replace(call, epoch=epoch)


def finish(database: Database, batch_id: int) -> bool:
    """Looks whether a batch's last job has ended, as a worker does, and completes it then. Whether this has ended it; its books must be
    right."""
    if not ended(database, batch_id):
        return False
    books = reconcile(database, batch_id)
    assert books is not None
    assert not books.differences, books.sentence
    return batch_status(database, batch_id) == BatchStatus.CANCELLED or finalize(database, batch_id)


def job_rows(database: Database, batch_id: int) -> list[sa.RowMapping]:
    """A batch's jobs in order of position."""
    with database.read() as connection:
        query = sa.select(jobs).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position)
        return list(connection.execute(query).mappings())


def statuses(database: Database, batch_id: int) -> list[str]:
    """The states of a batch's jobs in order of position."""
    return [row["status"] for row in job_rows(database, batch_id)]


def attempt_rows(database: Database, batch_id: int) -> list[sa.RowMapping]:
    """A batch's calls, oldest first."""
    with database.read() as connection:
        query = (
            sa.select(attempts).where(attempts.c.batch_id == batch_id).order_by(attempts.c.started_at, attempts.c.id)
        )
        return list(connection.execute(query).mappings())


def batch_status(database: Database, batch_id: int) -> str:
    """The batch's state."""
    with database.read() as connection:
        return str(connection.execute(sa.select(batches.c.status).where(batches.c.id == batch_id)).scalar_one())


def assert_counts_are_true(database: Database, batch_id: int) -> batch_store.Counts:
    """The counters say what the rows say; returns them."""
    with database.read() as connection:
        counts = batch_store.counts(connection, batch_id)
    states = statuses(database, batch_id)
    assert counts.total == len(states)
    assert counts.succeeded == states.count(JobStatus.SUCCEEDED)
    assert counts.failed == states.count(JobStatus.FAILED)
    assert counts.cancelled == states.count(JobStatus.CANCELLED)
    return counts


def noon_zone() -> str:
    """Returns a time zone in which it is about noon, so that no day ends while a test runs."""
    east = 12 - time.gmtime().tm_hour
    return f"Etc/GMT{-east:+d}" if east else "UTC"
