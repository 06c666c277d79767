"""Suspects: jobs whose workers died again and again while they ran. They run apart, so that the one that is to blame is found.

First a few together, in a process of their own; what was there when that died too runs quite alone, and only a death then counts
against a job. It starts no process; `worker.warden` does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.states import RUNNABLE, SUSPECT_RESCUES, JobStatus
from models.store import batches as batch_store
from models.store import claims
from models.store import jobs as job_store
from models.store import workers as worker_store
from models.store.batches import SHARDS
from models.store.claims import Claimed, Passed
from models.tables import batch_counts, batches, jobs

POISON = "poison"
"""The error code of a job that kills whatever process runs it."""

POISON_CRASHES = 2
"""So many deaths while it ran alone make a job poison."""

ALONE_RESCUES = SUSPECT_RESCUES + 1
"""A suspect whose worker died once more, among other suspects, runs alone."""

MOST_TOGETHER = 32
"""How many suspects run at the same time before they are parted."""

_WAITING = (
    jobs.c.status == sa.literal_column("'queued'"),  # literal, or the partial index isn't used
    jobs.c.rescues >= sa.literal_column(str(SUSPECT_RESCUES)),
)

_RUNNING = jobs.c.status == sa.literal_column("'running'")


@dataclass(frozen=True, slots=True)
class Crash:
    """What a process that ran suspects left behind: `rescued` jobs, the one that was `alone` in it and how often that has happened
    to it, and the batch whose job is poison now."""

    rescued: int
    alone: int | None = None
    crashes: int = 0
    ended: int | None = None


def waiting(connection: Connection, lanes: Sequence[str]) -> bool:
    """Whether any suspect waits in these lanes, snoozed ones included, of a batch that is to run."""
    query = (
        sa.select(jobs.c.id)
        .join(batches, batches.c.id == jobs.c.batch_id)
        .where(*_WAITING, jobs.c.lane.in_(lanes), batches.c.status.in_(RUNNABLE))
        .limit(1)
    )
    return connection.execute(query).first() is not None


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
    """Takes suspects, as `claims.claim` takes other jobs: several of those that may run together; else, if this worker runs nothing
    whatever, one to run alone, those first that never died so."""
    running = (
        connection.execute(sa.select(jobs.c.rescues).where(jobs.c.worker_id == worker_id, _RUNNING)).scalars().all()
    )
    if most <= 0 or any(rescues >= ALONE_RESCUES for rescues in running):
        return []
    found = batch_store.runnable(connection)
    together = min(most, MOST_TOGETHER - len(running))
    picked = _picked(connection, found, provider, lanes, skip, withheld, jobs.c.rescues < ALONE_RESCUES, together)
    if not picked and not running:
        picked = _picked(connection, found, provider, lanes, skip, withheld, jobs.c.rescues >= ALONE_RESCUES, 1)
    return claims.take(
        connection, picked, found, provider=provider, worker_id=worker_id, most_bytes=most_bytes, now=now
    )


def _picked(
    connection: Connection,
    found: Sequence[RowMapping],
    provider: str,
    lanes: Sequence[str],
    skip: Collection[tuple[str, str]],
    withheld: Collection[str],
    which: sa.ColumnElement[bool],
    most: int,
) -> list[RowMapping]:
    """Up to `most` suspects that may be claimed now. There are few of all of them, so no order of batches is kept but by priority."""
    picked: list[RowMapping] = []
    ids = [row["id"] for row in found]
    for lane in [*lanes, *withheld]:
        query = (
            claims.claimable(lane, provider, most - len(picked))
            .where(*_WAITING, which, jobs.c.lane == lane, jobs.c.not_before.is_(None), jobs.c.batch_id.in_(ids))
            .order_by(jobs.c.solo_crashes, jobs.c.batch_id, jobs.c.position)
        )
        slow = [model for of, model in skip if of == lane]
        if slow:
            query = query.where(jobs.c.model.not_in(slow))
        if lane in withheld:
            query = query.where(jobs.c.excluded != sa.literal_column("''"))
        picked += connection.execute(query).mappings()
        if len(picked) >= most:
            break
    return picked


def crashed(connection: Connection, worker_id: int, how: str, now: float) -> Crash:
    """Settles the death of a process that ran suspects, `how` in words: its jobs go back, and the one that was alone in it is
    charged; for the last time it fails as poison.

    Only for whoever started that process and saw it die by itself: one that its parent took with it says nothing against a job.
    """
    lonely = connection.execute(
        sa.select(jobs.c.id, jobs.c.batch_id, jobs.c.solo_crashes)
        .where(jobs.c.worker_id == worker_id, _RUNNING, jobs.c.rescues >= ALONE_RESCUES)
        .with_for_update()
    ).all()
    rescued = job_store.rescue(connection, [worker_id])
    worker_store.remove(connection, [worker_id])
    if len(lonely) != 1 or rescued != 1:
        return Crash(rescued)
    job_id, batch_id, before = lonely[0]
    crashes = before + 1
    connection.execute(jobs.update().where(jobs.c.id == job_id).values(solo_crashes=crashes))
    if crashes < POISON_CRASHES:
        return Crash(rescued, job_id, crashes)
    failed = connection.execute(
        jobs.update()
        .where(jobs.c.id == job_id, jobs.c.status == JobStatus.QUEUED)  # else its batch was cancelled
        .values(
            status=JobStatus.FAILED,
            epoch=jobs.c.epoch + 1,
            not_before=None,
            error_code=POISON,
            error_message=f"every worker process that ran this row died, at last {crashes} times with no other row in it ({how}): "
            "it crashes or hangs the code that writes its call or reads its reply, or takes more memory than there is. Its calls may have been billed. "
            f"The worker's log tells of each time; mend what is at fault there, then `truckllm rerun {batch_id} --error poison`",
            finished_at=now,
        )
    )
    if failed.rowcount != 1:
        return Crash(rescued, job_id, crashes)
    connection.execute(
        batch_counts.update()
        .where(batch_counts.c.batch_id == batch_id, batch_counts.c.shard == worker_id % SHARDS)
        .values(failed=batch_counts.c.failed + 1)
    )
    return Crash(rescued, job_id, crashes, ended=batch_id)
