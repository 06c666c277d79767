"""Loads that are given up: their rows are deleted in chunks, so that nobody ever sees half a file.

Loading itself is in `models.store.batches`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import BatchStatus
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
