"""Jobs on their way through `queued` and `running`: claimed, given back, woken, rescued, cancelled.

How a call's end moves its job is in `models.store.endings`, reruns in `models.store.reruns`.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.states import BatchStatus, JobStatus
from models.store import batches as batch_store
from models.store import ends
from models.tables import attempts, batch_counts, batches, job_inputs, jobs, workers

LOWER_PRIORITY_SHARE = 0.05
LONGEST_SNOOZE = 600.0
BATCHES_A_CLAIM = 32
"""Among how many batches one claim is shared; which of them, changes from claim to claim."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that this worker holds in this epoch."""

    id: int
    batch_id: int
    epoch: int
    lane: str
    model: str
    excluded: str
    attempts: int
    rescues: int
    dialect: str
    operation: str
    body: bytes = field(repr=False)
    no_fallback: bool = False
    solo_crashes: int = 0


def claim(
    connection: Connection,
    *,
    provider: str,
    lanes: Sequence[str],
    worker_id: int,
    most: int,
    most_bytes: int,
    now: float,
    skip: Collection[tuple[str, str]] = (),
    withheld: Collection[str] = (),
) -> list[Claimed]:
    """Takes up to `most` queued jobs of these lanes, `most_bytes` of input together (one bigger job alone).

    `skip` are (lane, model) pairs that can't start at this moment; from `withheld` lanes only jobs are taken that another provider of
    the route has failed. Batches of the highest priority share equally, by position inside each; lower ones get 5 %. Jobs that `provider` has already
    failed are left to the others of their route, and suspects to `models.store.suspects`.
    """
    found = batch_store.runnable(connection, [*lanes, *withheld])
    if not found or most <= 0:
        return []
    top = found[0]["priority"]
    first = [row["id"] for row in found if row["priority"] == top]
    lower = [row["id"] for row in found if row["priority"] != top]
    keep = math.ceil(most * LOWER_PRIORITY_SHARE) if lower and random.random() < most * LOWER_PRIORITY_SHARE else 0
    low = _share(connection, lower, lanes, provider, keep, skip) if keep else []
    picked = _share(connection, first, lanes, provider, most - len(low), skip)
    if lower and len(picked) + len(low) < most:
        low = _share(connection, lower, lanes, provider, most - len(picked), skip)
    picked += low
    for lane in withheld:
        if len(picked) < most:
            picked += _passed_on(connection, [row["id"] for row in found], lane, provider, most - len(picked))
    return take(connection, picked, found, provider=provider, worker_id=worker_id, most_bytes=most_bytes, now=now)


_TAKE = (  # built once: that takes longer than SQLite does to run it
    jobs.update()
    .where(jobs.c.id.in_(sa.bindparam("ids", expanding=True)))
    .values(
        status=JobStatus.RUNNING,
        epoch=jobs.c.epoch + 1,
        worker_id=sa.bindparam("worker"),
        provider=sa.bindparam("by"),
    )
)
_INPUTS = sa.select(job_inputs.c.job_id, job_inputs.c.body, job_inputs.c.dialect, job_inputs.c.operation).where(
    job_inputs.c.job_id.in_(sa.bindparam("ids", expanding=True))
)


def take(
    connection: Connection,
    picked: Sequence[RowMapping],
    found: Sequence[RowMapping],
    *,
    provider: str,
    worker_id: int,
    most_bytes: int,
    now: float,
) -> list[Claimed]:
    """Makes rows that `claimable` chose from the runnable batches `found` this worker's own, as far as `most_bytes` goes."""
    taken: list[RowMapping] = []
    room = most_bytes
    for row in picked:
        room -= row["input_bytes"]
        if taken and room < 0:
            break
        taken.append(row)
    if not taken:
        return []
    ids = [row["id"] for row in taken]
    connection.execute(_TAKE, {"ids": ids, "worker": worker_id, "by": provider})
    started = {row["batch_id"] for row in taken} & {row["id"] for row in found if row["status"] == BatchStatus.QUEUED}
    if started:
        batch_store.start(connection, sorted(started), now)
    inputs = {row.job_id: row for row in connection.execute(_INPUTS, {"ids": ids})}
    strict = {row["id"] for row in found if row["no_fallback"]}
    return [
        Claimed(
            id=row["id"],
            batch_id=row["batch_id"],
            epoch=row["epoch"] + 1,
            lane=row["lane"],
            model=row["model"],
            excluded=row["excluded"],
            attempts=row["attempts"],
            rescues=row["rescues"],
            dialect=inputs[row["id"]].dialect,
            operation=inputs[row["id"]].operation,
            body=inputs[row["id"]].body,
            no_fallback=row["batch_id"] in strict,
            solo_crashes=row["solo_crashes"],
        )
        for row in taken
    ]


def _share(
    connection: Connection,
    batch_ids: list[int],
    lanes: Sequence[str],
    provider: str,
    most: int,
    skip: Collection[tuple[str, str]],
) -> list[RowMapping]:
    """Equal parts of these batches, up to BATCHES_A_CLAIM of them; what some can't fill goes to the others."""
    random.shuffle(batch_ids)
    picked: list[RowMapping] = []
    left = len(batch_ids)
    offsets: dict[tuple[int, str], int] = {}
    for batch_id in batch_ids:
        wanted = math.ceil((most - len(picked)) / min(left, BATCHES_A_CLAIM))
        left -= 1
        for lane in lanes:
            if wanted <= 0:
                break
            rows = _queued(connection, batch_id, lane, provider, wanted, -1, skip)
            picked += rows
            wanted -= len(rows)
            if rows:
                offsets[batch_id, lane] = rows[-1]["position"]
        if len(picked) >= most:
            return picked
    for (batch_id, lane), position in offsets.items():
        if len(picked) >= most:
            break
        picked += _queued(connection, batch_id, lane, provider, most - len(picked), position, skip)
    return picked


def _queued(
    connection: Connection,
    batch_id: int,
    lane: str,
    provider: str,
    most: int,
    after: int,
    skip: Collection[tuple[str, str]],
) -> list[RowMapping]:
    query = _queued_in(lane, provider)
    slow = [model for of, model in skip if of == lane]
    if slow:
        query = query.where(jobs.c.model.not_in(slow))
    return list(connection.execute(query, {"batch": batch_id, "after": after, "most": most}).mappings())


@functools.lru_cache(maxsize=256)
def _queued_in(lane: str, provider: str) -> sa.Select[Any]:
    return (
        claimable(lane, provider, sa.bindparam("most", type_=sa.Integer))
        .where(
            jobs.c.batch_id == sa.bindparam("batch"),
            *batch_store.claimable_in(lane),
            jobs.c.position > sa.bindparam("after"),
        )
        .order_by(jobs.c.lane, jobs.c.position)
    )


def _passed_on(connection: Connection, batch_ids: list[int], lane: str, provider: str, most: int) -> list[RowMapping]:
    """Jobs of a lane that another provider has failed: they are few, and have an index of their own."""
    query = claimable(lane, provider, most).where(
        jobs.c.lane == lane,
        jobs.c.batch_id.in_(batch_ids),
        batch_store.NO_SUSPECT,
        jobs.c.status == sa.literal_column("'queued'"),
        jobs.c.not_before.is_(None),
        jobs.c.excluded != sa.literal_column("''"),
    )
    return list(connection.execute(query).mappings())


def claimable(lane: str, provider: str, most: int | sa.BindParameter[int]) -> sa.Select[Any]:
    """What `take` needs to know of up to `most` jobs, locked, without those of a route's lane that `provider` has failed."""
    query = (
        sa.select(
            jobs.c.id,
            jobs.c.batch_id,
            jobs.c.position,
            jobs.c.epoch,
            jobs.c.lane,
            jobs.c.model,
            jobs.c.excluded,
            jobs.c.attempts,
            jobs.c.rescues,
            jobs.c.solo_crashes,
            jobs.c.input_bytes,
        )
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    if lane != provider:
        query = query.where(jobs.c.excluded.not_like(f"%,{provider},%"))
    return query


def give_back(connection: Connection, held: Mapping[int, int], *, not_before: float | None = None) -> None:
    """Returns jobs (id → epoch) that were claimed and not sent. Those that aren't held in that epoch are left alone. Their batches are
    noted in `ends`: one of them may have been cancelled meanwhile."""
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
        _requeue(connection, ids, {"not_before": not_before})


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
