"""Batches under `finalizing`: whose it is to reconcile them, and what became of it. Each move is one guarded statement.

What is compared is in `models.store.reconciliation`, the order of things in `models.finalizing`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import BatchStatus
from models.tables import batch_counts, batches

SILENT_SECONDS = 15.0
"""A finalizer that wrote nothing for so long has died: another may take its batch over."""

AGAIN_SECONDS = 60.0
"""A batch whose books don't add up is looked at again so often: what was wrong may have been mended."""


def _stale(now: float) -> sa.ColumnElement[bool]:
    return sa.or_(
        batches.c.checked_at.is_(None),
        batches.c.checked_at < sa.case((batches.c.problem.is_(None), now - SILENT_SECONDS), else_=now - AGAIN_SECONDS),
        batches.c.checked_at > now + AGAIN_SECONDS,  # by a clock that was wrong
    )


def waiting(connection: Connection, now: float) -> list[int]:
    """The batches that nobody reconciles just now, and that are due."""
    query = (
        sa.select(batches.c.id).where(batches.c.status == BatchStatus.FINALIZING, _stale(now)).order_by(batches.c.id)
    )
    return [int(batch_id) for batch_id in connection.execute(query).scalars()]


def take_over(connection: Connection, batch_id: int, finalizer: str, now: float, *, at_once: bool = False) -> bool:
    """Makes `finalizer` the one that reconciles the batch. False when another does, or it isn't finalizing.

    `at_once`: also from another; whoever is asked last decides.
    """
    done = connection.execute(
        batches.update()
        .where(
            batches.c.id == batch_id,
            batches.c.status == BatchStatus.FINALIZING,
            sa.or_(sa.literal(at_once), _stale(now)),
        )
        .values(finalizer=finalizer, checked_at=now)
    )
    return done.rowcount == 1


def touch(connection: Connection, batch_id: int, finalizer: str, now: float) -> bool:
    """Shows that the finalizer lives. False when the batch isn't its own any more."""
    done = connection.execute(batches.update().where(*_own(batch_id, finalizer)).values(checked_at=now))
    return done.rowcount == 1


def complete(connection: Connection, batch_id: int, finalizer: str, now: float) -> bool:
    """The books are right: the batch is completed. False when it isn't this finalizer's any more."""
    done = connection.execute(
        batches.update()
        .where(*_own(batch_id, finalizer))
        .values(status=BatchStatus.COMPLETED, finished_at=now, finalizer=None, checked_at=None, problem=None)
    )
    return done.rowcount == 1


def refuse(connection: Connection, batch_id: int, finalizer: str, problem: str, now: float) -> bool:
    """The books are wrong: the batch stays under `finalizing`, with the problem. False when it isn't this finalizer's any more."""
    done = connection.execute(
        batches.update().where(*_own(batch_id, finalizer)).values(problem=problem, checked_at=now)
    )
    return done.rowcount == 1


def go_on(connection: Connection, batch_id: int, finalizer: str) -> bool:
    """Jobs were put back into the queue at the very moment at which the batch seemed to have ended: it runs again. False when all its
    jobs are counted as ended."""
    ended = (
        sa.select(sa.func.sum(batch_counts.c.succeeded + batch_counts.c.failed + batch_counts.c.cancelled))
        .where(batch_counts.c.batch_id == batch_id)
        .scalar_subquery()
    )
    done = connection.execute(
        batches.update()
        .where(*_own(batch_id, finalizer), batches.c.total > ended)
        .values(status=BatchStatus.RUNNING, finalizer=None, checked_at=None, problem=None)
    )
    return done.rowcount == 1


def _own(batch_id: int, finalizer: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        batches.c.id == batch_id,
        batches.c.status == BatchStatus.FINALIZING,
        batches.c.finalizer == finalizer,
    )
