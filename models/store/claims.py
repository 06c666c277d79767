"""Claims: queued jobs become one worker's own, shared fairly among batches.

It neither sends nor gives back (`models.store.jobs`); suspects are claimed by `models.store.suspects`.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.states import BatchStatus, JobStatus
from models.store import batches as batch_store
from models.tables import job_inputs, jobs

LOWER_PRIORITY_SHARE = 0.05
Passed = MutableMapping[tuple[int, str], int]
"""By batch and lane, the position up to which all queued jobs are of models that are passed over."""
_ALL = (1 << 63) - 1
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
    empty_answers: str | None = None
    traced: bool = False
    """It makes one call, which is written down."""
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
    passed: Passed | None = None,
) -> list[Claimed]:
    """Takes up to `most` queued jobs of these lanes, `most_bytes` of input together (one bigger job alone).

    `skip` are (lane, model) pairs that can't start at this moment; from `withheld` lanes only jobs are taken that another provider of
    the route has failed. Where `passed` is given, claims with the same `skip` begin behind what an earlier one has passed over, and add to it. Batches of the highest priority share equally, by position inside each; lower ones get 5 %. Jobs that `provider` has already
    failed are left to the others of their route, and suspects to `models.store.suspects`.
    """
    found = batch_store.runnable(connection, [*lanes, *withheld])
    if not found or most <= 0:
        return []
    top = found[0]["priority"]
    first = [row["id"] for row in found if row["priority"] == top]
    lower = [row["id"] for row in found if row["priority"] != top]
    keep = math.ceil(most * LOWER_PRIORITY_SHARE) if lower and random.random() < most * LOWER_PRIORITY_SHARE else 0
    low = _share(connection, lower, lanes, provider, keep, skip, passed) if keep else []
    picked = _share(connection, first, lanes, provider, most - len(low), skip, passed)
    if lower and len(picked) + len(low) < most:
        low = _share(connection, lower, lanes, provider, most - len(picked), skip, passed)
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
    by_batch = {row["id"]: row for row in found}
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
            no_fallback=bool(by_batch[row["batch_id"]]["no_fallback"]),
            empty_answers=by_batch[row["batch_id"]]["empty_answers"],
            traced=bool(by_batch[row["batch_id"]]["traced"]),
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
    passed: Passed | None,
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
            begin = -1 if passed is None else passed.get((batch_id, lane), -1)
            rows = _queued(connection, batch_id, lane, provider, wanted, begin, skip)
            if passed is not None and any(of == lane for of, _ in skip):
                passed[batch_id, lane] = max(begin, rows[0]["position"] - 1) if rows else _ALL
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
            *batch_store.claimable_in(lane, sa.bindparam("after")),
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
