"""Batches: made while loading, published when whole, completed exactly once, cancelled, found again.

It doesn't touch single jobs but in bulk.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.errors import NotFoundError
from models.states import RUNNABLE, STOPPABLE, SUSPECT_RESCUES, BatchStatus, JobStatus
from models.tables import batch_counts, batch_spend, batches, job_inputs, jobs

SHARDS = 16
"""Counter rows a batch; a worker writes to the one of its number, so that workers don't wait for each other."""

LOADER_SILENT_SECONDS = 60.0
"""A loader that wrote nothing for so long has died: another may take its batch over."""

RELEASED = ""
"""The loader of a batch that its loader has let go."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a batch is. `queued` and `running` are those of the moment."""

    total: int
    succeeded: int
    failed: int
    cancelled: int
    empty: int = 0
    """Of those that succeeded."""

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed + self.cancelled

    @property
    def left(self) -> int:
        return self.total - self.ended


def create(
    connection: Connection,
    *,
    name: str,
    input_name: str,
    sha256: str,
    options_hash: str,
    defaults: str,
    priority: int,
    again: int,
    loader: str,
    now: float,
    no_fallback: bool = False,
    empty_answers: str | None = None,
    traced: bool = False,
) -> int:
    """A new batch under status `loading`. Raises IntegrityError when an unfinished one has the same file and options."""
    inserted = connection.execute(
        batches.insert().values(
            name=name,
            input_name=input_name,
            input_sha256=sha256,
            options_hash=options_hash,
            again=again,
            status=BatchStatus.LOADING,
            priority=priority,
            defaults=defaults,
            loader=loader,
            loaded_at=now,
            created_at=now,
            no_fallback=int(no_fallback),
            empty_answers=empty_answers,
            traced=1 if traced else None,
        )
    )
    key = inserted.inserted_primary_key
    assert key is not None
    batch_id = int(key[0])
    connection.execute(batch_counts.insert(), [{"batch_id": batch_id, "shard": shard} for shard in range(SHARDS)])
    return batch_id


@dataclass(frozen=True, slots=True)
class NewJob:
    """One job to add: `position` counts from 0 in input order. `refused` is why it has failed already, without any lane; `metadata`
    what stood beside its body, as JSON."""

    position: int
    custom_id: str
    lane: str
    model: str
    body: bytes
    dialect: str
    operation: str
    refused: str | None = None
    metadata: bytes | None = None


INVALID_LINE = "invalid_line"
"""The error code of a job whose line couldn't become one."""


def add_jobs(connection: Connection, batch_id: int, loader: str, new: Sequence[NewJob], now: float) -> bool:
    """Adds jobs to a loading batch. False, and nothing done, when the batch isn't this loader's any more."""
    mine = connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status == BatchStatus.LOADING, batches.c.loader == loader)
        .values(loaded_at=now, total=batches.c.total + len(new))
    )
    if mine.rowcount != 1:
        return False
    if not new:
        return True
    connection.execute(
        jobs.insert(),
        [
            {
                "batch_id": batch_id,
                "position": job.position,
                "custom_id": job.custom_id,
                "lane": job.lane,
                "model": job.model,
                "status": JobStatus.QUEUED if job.refused is None else JobStatus.FAILED,
                "input_bytes": len(job.body) + len(job.metadata or b""),
                "error_code": None if job.refused is None else INVALID_LINE,
                "error_message": job.refused,
                "created_at": now,
                "finished_at": None if job.refused is None else now,
            }
            for job in new
        ],
    )
    if failed := sum(job.refused is not None for job in new):
        connection.execute(
            batch_counts.update()
            .where(batch_counts.c.batch_id == batch_id, batch_counts.c.shard == 0)
            .values(failed=batch_counts.c.failed + failed)
        )
    found = sa.select(jobs.c.position, jobs.c.id).where(
        jobs.c.batch_id == batch_id, jobs.c.position.between(new[0].position, new[-1].position)
    )
    ids = {row.position: row.id for row in connection.execute(found)}
    connection.execute(
        job_inputs.insert(),
        [
            {
                "job_id": ids[job.position],
                "body": job.body,
                "dialect": job.dialect,
                "operation": job.operation,
                "metadata": job.metadata,
            }
            for job in new
        ],
    )
    return True


def take_over(connection: Connection, batch_id: int, loader: str, now: float) -> int | None:
    """Makes `loader` the loader of a batch whose loader has died or let go. How many jobs it has already; None if it hasn't died."""
    taken = connection.execute(
        batches.update()
        .where(
            batches.c.id == batch_id,
            batches.c.status == BatchStatus.LOADING,
            sa.or_(batches.c.loader == RELEASED, batches.c.loaded_at < now - LOADER_SILENT_SECONDS),
        )
        .values(loader=loader, loaded_at=now)
    )
    if taken.rowcount != 1:
        return None
    return int(connection.execute(sa.select(batches.c.total).where(batches.c.id == batch_id)).scalar_one())


def release(connection: Connection, batch_id: int, loader: str) -> None:
    """Lets go of a loading batch that its loader couldn't finish, so that the next one needn't wait."""
    connection.execute(
        batches.update().where(batches.c.id == batch_id, batches.c.loader == loader).values(loader=RELEASED)
    )


def publish(connection: Connection, batch_id: int, loader: str) -> bool:
    """Makes a loaded batch visible to workers. False when it isn't this loader's any more."""
    done = connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status == BatchStatus.LOADING, batches.c.loader == loader)
        .values(status=BatchStatus.QUEUED, loader=None, loaded_at=None)
    )
    return done.rowcount == 1


def get(connection: Connection, batch_id: int) -> RowMapping:
    """The batch's row. Raises NotFoundError."""
    row = connection.execute(sa.select(batches).where(batches.c.id == batch_id)).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"there is no batch {batch_id}; `truckllm status` lists them")
    return row


def newest_first(connection: Connection, limit: int = 100) -> list[RowMapping]:
    """The last batches."""
    return list(connection.execute(sa.select(batches).order_by(batches.c.id.desc()).limit(limit)).mappings())


def unended(connection: Connection) -> list[RowMapping]:
    """Published batches that have work left, or an end to reach: id, status."""
    query = (
        sa.select(batches.c.id, batches.c.status)
        .where(
            sa.or_(
                batches.c.status.in_((*RUNNABLE, BatchStatus.PAUSED, BatchStatus.DELETING)),
                sa.and_(batches.c.status == BatchStatus.CANCELLED, batches.c.finished_at.is_(None)),
            )
        )
        .order_by(batches.c.id)
    )
    return list(connection.execute(query).mappings())


def same_file(connection: Connection, sha256: str) -> list[RowMapping]:
    """Batches made of this very file, newest first."""
    query = sa.select(batches).where(batches.c.input_sha256 == sha256).order_by(batches.c.id.desc())
    return list(connection.execute(query).mappings())


def runnable(connection: Connection, lanes: Collection[str] | None = None) -> list[RowMapping]:
    """Batches whose jobs may be claimed, highest priority first: id, status, priority, no_fallback, empty_answers, traced. `lanes`: only those with a job that can be
    claimed from one of these lanes right now."""
    query = (
        sa.select(
            batches.c.id,
            batches.c.status,
            batches.c.priority,
            batches.c.no_fallback,
            batches.c.empty_answers,
            batches.c.traced,
        )
        .where(batches.c.status.in_(RUNNABLE))
        .order_by(batches.c.priority.desc(), batches.c.id)
    )
    if lanes is not None:
        query = query.where(sa.or_(sa.false(), *(_first_claimable(lane).is_not(None) for lane in lanes)))
    return list(connection.execute(query).mappings())


def _first_claimable(lane: str) -> sa.ScalarSelect[int]:
    """One index probe a batch."""
    query = (
        sa.select(jobs.c.id)
        .where(jobs.c.batch_id == batches.c.id, *claimable_in(lane))
        .order_by(jobs.c.lane, jobs.c.position)
        .limit(1)
    )
    return query.correlate(batches).scalar_subquery()


NO_SUSPECT = jobs.c.rescues < sa.literal_column(str(SUSPECT_RESCUES))


def claimable_in(lane: str, after: sa.BindParameter[int] | None = None) -> tuple[sa.ColumnElement[bool], ...]:
    """What makes a job claimable from a lane by an ordinary worker; `after`: behind this position. Ordered by lane and position, as only
    the partial index is, no planner prefers to walk through all jobs of a batch, those that have ended first."""
    its: tuple[sa.ColumnElement[bool], ...] = (jobs.c.lane.between(lane, lane),)
    if after is not None:  # by both columns, or SQLite reads the lane's part of the index from its beginning
        its = (sa.tuple_(jobs.c.lane, jobs.c.position) > sa.tuple_(sa.literal(lane), after), jobs.c.lane <= lane)
    return (
        *its,
        jobs.c.status == sa.literal_column("'queued'"),  # literal, or the partial index isn't used
        jobs.c.not_before.is_(None),
        NO_SUSPECT,
    )


def others(connection: Connection, batch_id: int) -> tuple[int, int] | None:
    """How many other batches workers work on besides this one, and how many jobs these have left; None without any."""
    left = [counts(connection, row["id"]).left for row in runnable(connection) if row["id"] != batch_id]
    waiting = [number for number in left if number > 0]
    return (len(waiting), sum(waiting)) if waiting else None


def start(connection: Connection, batch_ids: Sequence[int], now: float) -> None:
    """Marks batches whose first job was just claimed."""
    connection.execute(
        batches.update()
        .where(batches.c.id.in_(batch_ids), batches.c.status == BatchStatus.QUEUED)
        .values(status=BatchStatus.RUNNING, started_at=sa.func.coalesce(batches.c.started_at, now))
    )


def counts(connection: Connection, batch_id: int) -> Counts:
    """How far the batch is; reads 17 rows at any size."""
    total = connection.execute(sa.select(batches.c.total).where(batches.c.id == batch_id)).scalar_one_or_none()
    sums = connection.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(batch_counts.c.succeeded), 0),
            sa.func.coalesce(sa.func.sum(batch_counts.c.failed), 0),
            sa.func.coalesce(sa.func.sum(batch_counts.c.cancelled), 0),
            sa.func.coalesce(sa.func.sum(batch_counts.c.empty), 0),
        ).where(batch_counts.c.batch_id == batch_id)
    ).one()
    return Counts(int(total or 0), *(int(value) for value in sums))


def progress(connection: Connection, batch_id: int) -> tuple[str, int] | None:
    """The batch's state and how many of its jobs haven't ended; None when it is gone."""
    status = connection.execute(sa.select(batches.c.status).where(batches.c.id == batch_id)).scalar_one_or_none()
    return None if status is None else (str(status), counts(connection, batch_id).left)


def spend(connection: Connection, batch_id: int) -> list[RowMapping]:
    """Running sums by provider and currency: provider, currency, succeeded, calls, input_tokens, output_tokens, cost_nanos."""
    sums = [
        sa.func.sum(column).label(column.name)
        for column in (
            batch_spend.c.succeeded,
            batch_spend.c.calls,
            batch_spend.c.input_tokens,
            batch_spend.c.output_tokens,
            batch_spend.c.cost_nanos,
        )
    ]
    query = (
        sa.select(batch_spend.c.provider, batch_spend.c.currency, *sums)
        .where(batch_spend.c.batch_id == batch_id)
        .group_by(batch_spend.c.provider, batch_spend.c.currency)
        .order_by(batch_spend.c.provider, batch_spend.c.currency)
    )
    return list(connection.execute(query).mappings())


def finish_if_done(connection: Connection, batch_id: int, now: float) -> bool:
    """The end of a batch whose last job has ended; exactly one caller gets True. A cancelled batch has reached its own, every other is
    `finalizing` from then on (`models.finalizing` completes it).

    Must run in a transaction of its own after the one that ended a job, so that the last of several committers sees all counts.
    """
    ended = (
        sa.select(sa.func.sum(batch_counts.c.succeeded + batch_counts.c.failed + batch_counts.c.cancelled))
        .where(batch_counts.c.batch_id == batch_id)
        .scalar_subquery()
    )
    stopped = batches.c.status == BatchStatus.CANCELLED
    done = connection.execute(
        batches.update()
        .where(
            batches.c.id == batch_id,
            batches.c.finished_at.is_(None),
            batches.c.status.in_((*RUNNABLE, BatchStatus.PAUSED, BatchStatus.CANCELLED)),
            batches.c.total == ended,
        )
        .values(
            status=sa.case((stopped, BatchStatus.CANCELLED), else_=BatchStatus.FINALIZING),
            paused_reason=None,
            finished_at=sa.case((stopped, now), else_=sa.null()),
            finalizer=None,
            checked_at=None,
            problem=None,
        )
    )
    return done.rowcount == 1


def pause(connection: Connection, batch_id: int, reason: str) -> bool:
    """Nothing of the batch is claimed or sent from here on; calls under way finish. False when it isn't queued or running."""
    done = connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status.in_(RUNNABLE))
        .values(status=BatchStatus.PAUSED, paused_reason=reason)
    )
    return done.rowcount == 1


def resume(connection: Connection, batch_id: int) -> bool:
    """Goes on with a paused batch. False when it isn't paused."""
    done = connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status == BatchStatus.PAUSED)
        .values(
            status=sa.case((batches.c.started_at.is_(None), BatchStatus.QUEUED), else_=BatchStatus.RUNNING),
            paused_reason=None,
        )
    )
    return done.rowcount == 1


def set_priority(connection: Connection, batch_id: int, priority: int) -> bool:
    """From the next claim on. False when the batch has ended."""
    done = connection.execute(
        batches.update().where(batches.c.id == batch_id, batches.c.status.in_(STOPPABLE)).values(priority=priority)
    )
    return done.rowcount == 1


def cancel(connection: Connection, batch_id: int) -> bool:
    """Stops a batch: nothing of it is claimed from here on. False when it has ended already.

    Its queued jobs are cancelled in chunks by `models.store.jobs.cancel_queued`; calls under way finish and are kept.
    """
    done = connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status.in_(STOPPABLE))
        .values(status=BatchStatus.CANCELLED, paused_reason=None)
    )
    return done.rowcount == 1
