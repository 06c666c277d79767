"""Jobs on their way through `queued` and `running`: given back, woken, rescued, cancelled.

How they are claimed is in `models.store.claims`, how a call's end moves its job in `models.store.endings`, reruns in
`models.store.reruns`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import BatchStatus, JobStatus
from models.store import batches as batch_store
from models.store import ends
from models.tables import attempts, batch_counts, batches, jobs, workers

LONGEST_SNOOZE = 600.0


def give_back(
    connection: Connection,
    held: Mapping[int, int],
    *,
    not_before: float | None = None,
    excluded: str | None = None,
) -> None:
    """Returns jobs (id → epoch) that were claimed and not sent, with the providers that they may not go to (`excluded`; None: as
    before). Those that aren't held in that epoch are left alone. Their batches are noted in `ends`: one of them may have been
    cancelled meanwhile."""
    if not held:
        return
    rows = connection.execute(
        sa.select(jobs.c.id, jobs.c.epoch, jobs.c.batch_id)
        .where(jobs.c.id.in_(list(held)), jobs.c.status == JobStatus.RUNNING)
        .order_by(jobs.c.id)
        .with_for_update()
    ).all()
    ids = [row.id for row in rows if held[row.id] == row.epoch]
    if ids:
        _requeue(connection, ids, {"not_before": not_before, **({} if excluded is None else {"excluded": excluded})})


def orphans(connection: Connection, worker_id: int) -> dict[int, int]:
    """Jobs (id → epoch) that the database says this worker runs."""
    query = sa.select(jobs.c.id, jobs.c.epoch).where(
        jobs.c.worker_id == worker_id, jobs.c.status == sa.literal_column("'running'")
    )
    return {row.id: row.epoch for row in connection.execute(query)}


def rescue(connection: Connection, dead: Sequence[int] | None, most: int = 2000) -> int:
    """Gives back the running jobs of workers that are dead, or (dead=None) of any that isn't in `workers`. How many.

    Their open attempts stay `unknown`: maybe billed.
    """
    query = (
        sa.select(jobs.c.id)
        .where(jobs.c.status == sa.literal_column("'running'"))
        .order_by(jobs.c.worker_id, jobs.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    if dead is not None:
        query = query.where(jobs.c.worker_id.in_(dead))
    else:
        query = query.where(sa.or_(jobs.c.worker_id.is_(None), jobs.c.worker_id.not_in(sa.select(workers.c.id))))
    ids = list(connection.execute(query).scalars())
    if ids:
        made = sa.select(sa.func.count()).select_from(attempts).where(attempts.c.job_id == jobs.c.id).scalar_subquery()
        _requeue(connection, ids, {"not_before": None, "rescues": jobs.c.rescues + 1, "attempts": made})
    return len(ids)


def _requeue(connection: Connection, ids: Sequence[int], values: Mapping[str, object]) -> None:
    """Running → queued, or → cancelled where the batch is."""
    numbers = connection.execute(
        sa.select(jobs.c.batch_id, sa.func.count()).where(jobs.c.id.in_(ids)).group_by(jobs.c.batch_id)
    ).all()
    theirs = [batch_id for batch_id, _ in numbers]
    ends.note(connection, theirs)  # of those that are cancelled at this very moment, too
    # asked once, so that what is counted is what is moved
    query = sa.select(batches.c.id).where(batches.c.id.in_(theirs), batches.c.status == BatchStatus.CANCELLED)
    stopped = set(connection.execute(query).scalars())
    over = jobs.c.batch_id.in_(stopped)
    never = sa.cast(sa.null(), sa.Double)
    connection.execute(
        jobs.update()
        .where(jobs.c.id.in_(ids))
        .values(
            status=sa.case((over, JobStatus.CANCELLED), else_=JobStatus.QUEUED),
            epoch=jobs.c.epoch + 1,
            worker_id=None,
            **{
                **values,
                "not_before": sa.case((over, never), else_=sa.cast(values["not_before"], sa.Double)),
                "finished_at": sa.case((over, _clock(connection)), else_=never),
            },
        )
    )
    for batch_id, number in sorted(map(tuple, numbers)):
        if batch_id in stopped:
            _count_cancelled(connection, batch_id, number)


def _clock(connection: Connection) -> sa.ColumnElement[float]:
    """Unix seconds by the database's clock."""
    if connection.dialect.name == "sqlite":
        return sa.literal(time.time(), sa.Double)
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


def _count_cancelled(connection: Connection, batch_id: int, number: int) -> None:
    connection.execute(
        batch_counts.update()
        .where(batch_counts.c.batch_id == batch_id, batch_counts.c.shard == 0)
        .values(cancelled=batch_counts.c.cancelled + number)
    )


def wake(connection: Connection, lanes: Sequence[str], now: float, most: int = 1000) -> int:
    """Makes snoozed jobs of these lanes claimable whose time has come. How many."""
    due = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.status == sa.literal_column("'queued'"),
            jobs.c.lane.in_(lanes),
            jobs.c.not_before.is_not(None),
            jobs.c.not_before <= now,
        )
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(due).scalars())
    if ids:
        connection.execute(
            jobs.update().where(jobs.c.id.in_(ids), jobs.c.status == JobStatus.QUEUED).values(not_before=None)
        )
    return len(ids)


def pull_in(connection: Connection, lanes: Sequence[str], now: float, most: int = 1000) -> int:
    """Shortens snoozes of more than ten minutes: they come from a clock that was wrong. How many."""
    far = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.status == sa.literal_column("'queued'"),
            jobs.c.lane.in_(lanes),
            jobs.c.not_before > now + LONGEST_SNOOZE,
        )
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(far).scalars())
    if ids:
        connection.execute(jobs.update().where(jobs.c.id.in_(ids)).values(not_before=now + LONGEST_SNOOZE))
    return len(ids)


def next_due(connection: Connection, lanes: Sequence[str]) -> float | None:
    """When the next snoozed job of these lanes is due."""
    times: list[float | None] = []
    for lane in lanes:
        query = (
            sa.select(jobs.c.not_before)
            .where(jobs.c.status == sa.literal_column("'queued'"), jobs.c.lane == lane, jobs.c.not_before.is_not(None))
            .order_by(jobs.c.not_before)
            .limit(1)
        )
        times += connection.execute(query).scalars().all()
    return min((float(time) for time in times if time is not None), default=None)


def waiting_lanes(connection: Connection, lanes: Sequence[str]) -> set[str]:
    """Those of these lanes in which a job could be claimed right now."""
    return {lane for lane in lanes if batch_store.runnable(connection, [lane])}


def cancel_queued(connection: Connection, batch_id: int, now: float, most: int = 2000) -> int:
    """Cancels a chunk of a cancelled batch's queued jobs. How many; call it until it says 0."""
    stopped = sa.select(batches.c.id).where(batches.c.id == batch_id, batches.c.status == BatchStatus.CANCELLED)
    if connection.execute(stopped).first() is None:
        return 0
    queued = sa.select(jobs.c.id).where(jobs.c.status == sa.literal_column("'queued'"))
    # each by its own partial index, so that a chunk costs the same however many went before
    ready = queued.where(jobs.c.batch_id == batch_id, jobs.c.not_before.is_(None), jobs.c.lane >= "")
    ready = ready.order_by(jobs.c.lane, jobs.c.position)
    snoozed = queued.where(jobs.c.batch_id + 0 == batch_id, jobs.c.not_before.is_not(None))
    ids: list[int] = []
    for some in (ready, snoozed):
        if len(ids) < most:
            ids += connection.execute(some.limit(most - len(ids)).with_for_update(skip_locked=True)).scalars()
    if ids:
        connection.execute(
            jobs.update()
            .where(jobs.c.id.in_(ids))
            .values(status=JobStatus.CANCELLED, epoch=jobs.c.epoch + 1, not_before=None, finished_at=now)
        )
        _count_cancelled(connection, batch_id, len(ids))
    return len(ids)


def in_flight(connection: Connection, batch_id: int) -> int:
    """How many calls of the batch are out at this moment, as far as their workers live."""
    query = (
        sa.select(sa.func.count())
        .select_from(attempts)
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job_id, jobs.c.epoch == attempts.c.epoch))
        .where(
            attempts.c.batch_id == batch_id,
            attempts.c.outcome == sa.literal_column("'unknown'"),
            jobs.c.status == JobStatus.RUNNING,
        )
    )
    return int(connection.execute(query).scalar_one())
