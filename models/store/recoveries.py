"""Jobs that wait because a provider has failed: one asks early whether it is back, and when it is, none waits any longer.

It neither claims nor sends; how many may ask is for `worker.breaker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import RUNNABLE, JobStatus, Outcome
from models.store.batches import NO_SUSPECT
from models.tables import attempts, batches, jobs

SPREAD_SECONDS = 2.0
"""They come back over so long a time, not all at once."""
_STEPS = 64

SOONEST = 4.5
"""Seconds from a job's failed call to the next: it stands ready when the next probe may go, five seconds after the last."""
LATEST = 60.0
PATIENT_AFTER = 60.0
"""A job that has met nothing but failures for longer asks ever more seldom: its calls are counted."""
_CANDIDATES = 32


def patience(age: float) -> float:
    """Seconds between two early calls of a job whose first failed so many seconds ago."""
    return min(LATEST, max(SOONEST, (age - PATIENT_AFTER) / 3))


def scout(connection: Connection, provider: str, lanes: Sequence[str], now: float) -> float | None:
    """Makes one job claimable that is snoozed in these lanes after a failed call, if one may ask early whether `provider` is back. When
    (unix seconds) that is: now or before if it was done. None: nobody waits so.

    Only a job whose last call certainly cost nothing: who got half an answer may have to pay for it each time.
    """
    soonest: tuple[float, int] | None = None
    for lane in lanes:
        for row in connection.execute(_waiting_in(lane, lane == provider, provider)):
            at = min(row.not_before, row.last + patience(row.last - row.first))
            if soonest is None or at < soonest[0]:
                soonest = at, row.id
    if soonest is None or soonest[0] > now:
        return soonest and soonest[0]
    mine = sa.select(jobs.c.id).where(jobs.c.id == soonest[1], jobs.c.status == sa.literal_column("'queued'"))
    if connection.execute(mine.with_for_update(skip_locked=True)).first() is not None:
        connection.execute(
            jobs.update().where(jobs.c.id == soonest[1], jobs.c.status == JobStatus.QUEUED).values(not_before=None)
        )
    return soonest[0]


def _waiting_in(lane: str, own: bool, provider: str) -> sa.Select[Any]:
    """The jobs of a lane that are due next, if their last call failed: id, not_before, when the last and the first such began."""
    due = (
        sa.select(jobs.c.id, jobs.c.batch_id, jobs.c.not_before, jobs.c.rerun_epoch)
        .where(
            jobs.c.status == sa.literal_column("'queued'"),
            jobs.c.lane == lane,
            jobs.c.not_before.is_not(None),
            NO_SUSPECT,
            *(() if own else (jobs.c.excluded.not_like(f"%,{provider},%"),)),
        )
        .order_by(jobs.c.not_before)
        .limit(_CANDIDATES)
        .subquery()
    )
    last, later, other = attempts.alias(), attempts.alias(), attempts.alias()
    first = (
        sa.select(sa.func.min(other.c.started_at))
        .where(
            other.c.job_id == due.c.id,
            other.c.epoch > due.c.rerun_epoch,
            other.c.outcome.in_((Outcome.FAILED, Outcome.UNKNOWN)),
        )
        .scalar_subquery()
    )
    return (
        sa.select(due.c.id, due.c.not_before, last.c.started_at.label("last"), first.label("first"))
        .join(batches, batches.c.id == due.c.batch_id)
        .join(last, last.c.job_id == due.c.id)
        .where(
            batches.c.status.in_(RUNNABLE),
            last.c.outcome == Outcome.FAILED,
            last.c.epoch > due.c.rerun_epoch,
            ~sa.exists().where(later.c.job_id == last.c.job_id, later.c.epoch > last.c.epoch),
        )
    )


def hasten(connection: Connection, provider: str, lanes: Sequence[str], now: float, most: int = 1000) -> int:
    """Brings near what is snoozed in these lanes after a failure of `provider` itself; who waits for a limit goes on waiting. How
    many; call it until it says less than `most`."""
    later = attempts.alias()
    failed = sa.exists().where(
        attempts.c.job_id == jobs.c.id,
        attempts.c.provider == provider,
        attempts.c.outcome.in_((Outcome.FAILED, Outcome.UNKNOWN)),
        ~sa.exists().where(later.c.job_id == attempts.c.job_id, later.c.epoch > attempts.c.epoch),
    )
    far = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.status == sa.literal_column("'queued'"),
            jobs.c.lane.in_(lanes),
            jobs.c.not_before > now + SPREAD_SECONDS,
            failed,
        )
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(far).scalars())
    if ids:
        soon = now + sa.cast(jobs.c.id % _STEPS, sa.Float) * (SPREAD_SECONDS / _STEPS)
        connection.execute(
            jobs.update().where(jobs.c.id.in_(ids), jobs.c.status == JobStatus.QUEUED).values(not_before=soon)
        )
    return len(ids)
