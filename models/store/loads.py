"""Loads that didn't come to their end: is what they hold still right, and deleting them, so that nobody ever sees half a file.

Loading itself is in `models.store.batches`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import BatchStatus
from models.store.batches import NewJob
from models.tables import batches, job_inputs, jobs

log = logging.getLogger("truckllm.loads")

ABANDONED_SECONDS = 7 * 86_400.0
"""A load that nobody has gone on with for so long is given up."""


def discard(connection: Connection, batch_id: int, loader: str, most: int = 2000) -> bool:
    """Deletes a chunk of a load that was cancelled before it was published, at last the batch itself. True when all is gone.

    Call `batches.cancel` first, in a transaction before: from then on nobody goes on with the load. Touches nothing unless the
    batch is cancelled and was never published.
    """
    given_up = sa.select(batches.c.id).where(
        batches.c.id == batch_id,
        batches.c.status == BatchStatus.CANCELLED,
        batches.c.loader == loader,
        batches.c.started_at.is_(None),
    )
    if connection.execute(given_up).first() is None:
        return True
    ids = list(
        connection.execute(
            sa.select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position).limit(most)
        ).scalars()
    )
    if ids:
        connection.execute(job_inputs.delete().where(job_inputs.c.job_id.in_(ids)))
        connection.execute(jobs.delete().where(jobs.c.id.in_(ids)))
        return False
    connection.execute(batches.delete().where(batches.c.id == batch_id))
    return True


def loader(connection: Connection, batch_id: int) -> str | None:
    """Who loads the batch; None when nobody does."""
    query = sa.select(batches.c.loader).where(batches.c.id == batch_id, batches.c.status == BatchStatus.LOADING)
    return connection.execute(query).scalar_one_or_none()


def give_up(connection: Connection, now: float) -> list[int]:
    """Gives loads up that nobody has gone on with for a week: nothing of them was ever visible to workers, and they are removed
    like deleted batches. Their numbers."""
    ids = abandoned(connection, now - ABANDONED_SECONDS)
    if ids:
        connection.execute(
            batches.update()
            .where(batches.c.id.in_(ids), *_silent_since(now - ABANDONED_SECONDS))
            .values(status=BatchStatus.DELETING, loader=None)
        )
        log.warning("batch(es) %s were never loaded to their end; they are removed", ", ".join(map(str, ids)))
    return ids


def abandoned(connection: Connection, moment: float) -> list[int]:
    """The batches whose loaders have written nothing since then."""
    query = sa.select(batches.c.id).where(*_silent_since(moment)).order_by(batches.c.id)
    return [int(batch_id) for batch_id in connection.execute(query).scalars()]


def _silent_since(moment: float) -> tuple[sa.ColumnElement[bool], ...]:
    # what was let go by an older version has no time of its last writing
    last = sa.case((batches.c.loaded_at > batches.c.created_at, batches.c.loaded_at), else_=batches.c.created_at)
    return (batches.c.status == BatchStatus.LOADING, last < moment)


def holds(connection: Connection, batch_id: int, wanted: Sequence[NewJob]) -> bool:
    """Whether the batch holds exactly these jobs (in order, without gaps) at their positions, as they would be added now."""
    query = (
        sa.select(
            jobs.c.position,
            jobs.c.custom_id,
            jobs.c.lane,
            jobs.c.model,
            jobs.c.error_message,
            job_inputs.c.body,
            job_inputs.c.dialect,
            job_inputs.c.operation,
            job_inputs.c.metadata,
        )
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .where(jobs.c.batch_id == batch_id, jobs.c.position.between(wanted[0].position, wanted[-1].position))
        .order_by(jobs.c.position)
    )
    found = [
        NewJob(
            row.position,
            row.custom_id,
            row.lane,
            row.model,
            bytes(row.body),
            row.dialect,
            row.operation,
            row.error_message,
            None if row.metadata is None else bytes(row.metadata),
        )
        for row in connection.execute(query)
    ]
    return found == list(wanted)
