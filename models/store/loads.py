"""Loads that didn't come to their end: is what they hold still right, and deleting them, so that nobody ever sees half a file.

Loading itself is in `models.store.batches`.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import BatchStatus
from models.store.batches import NewJob
from models.tables import batches, job_inputs, jobs


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
