"""Removing batches that have ended: prompts and replies go, in chunks; what was paid stays in the ledger.

It decides nothing: which batch goes, and that nothing of it is under way, is the caller's to see to.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import BatchStatus
from models.store import loads
from models.store.batches import LOADER_SILENT_SECONDS, RELEASED
from models.tables import batches, job_inputs, jobs, results, traces

REMOVABLE = (BatchStatus.COMPLETED, BatchStatus.CANCELLED)


def begin(connection: Connection, batch_id: int, now: float) -> bool:
    """Gives a batch up whose last job has ended, or which was never loaded to its end and whose loader has let go of it: from here on
    it can only be removed. False when it is unfinished."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")  # of this connection: what is deleted is overwritten
    done = connection.execute(
        batches.update()
        .where(
            batches.c.id == batch_id,
            sa.or_(
                batches.c.status.in_((BatchStatus.DELETING, BatchStatus.FINALIZING)),
                batches.c.finished_at.is_not(None),
                sa.and_(
                    batches.c.status == BatchStatus.LOADING,
                    sa.or_(batches.c.loader == RELEASED, batches.c.loaded_at < now - LOADER_SILENT_SECONDS),
                ),
            ),
        )
        .values(status=BatchStatus.DELETING, loader=None)
    )
    return done.rowcount == 1


def remove(connection: Connection, batch_id: int, most: int = 1000) -> int:
    """Removes a chunk of such a batch's jobs with all that they hold, at last the batch itself. How many jobs; call it until it
    says 0.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    given_up = sa.select(batches.c.id).where(batches.c.id == batch_id, batches.c.status == BatchStatus.DELETING)
    if connection.execute(given_up.with_for_update(key_share=True)).first() is None:
        return 0
    query = sa.select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.position).limit(most)
    ids = list(connection.execute(query).scalars())
    if not ids:
        connection.execute(batches.delete().where(batches.c.id == batch_id))
        return 0
    for table, column in (
        *((results, results.c.job_id), (job_inputs, job_inputs.c.job_id), (traces, traces.c.job_id)),
        (jobs, jobs.c.id),
    ):
        connection.execute(table.delete().where(column.in_(ids)))
    return len(ids)


def ended_before(connection: Connection, moment: float) -> list[int]:
    """The batches whose last job ended before then, loads that nobody went on with since, and those whose removal was interrupted."""
    query = (
        sa.select(batches.c.id)
        .where(
            sa.or_(
                batches.c.status == BatchStatus.DELETING,
                sa.and_(batches.c.status.in_(REMOVABLE), batches.c.finished_at < moment),
                batches.c.id.in_(loads.abandoned(connection, moment)),
            )
        )
        .order_by(batches.c.id)
    )
    return [int(batch_id) for batch_id in connection.execute(query).scalars()]
