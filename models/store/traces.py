"""The calls of traced batches: their request and reply as a worker has written them down, without secrets.

It doesn't know what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.tables import jobs, traces


def keep(connection: Connection, by_job: Mapping[int, bytes]) -> None:
    """Stores the traces of jobs, in place of earlier ones: a person may have rerun them."""
    if by_job:
        connection.execute(traces.delete().where(traces.c.job_id.in_(by_job)))
        connection.execute(traces.insert(), [{"job_id": job, "trace": trace} for job, trace in by_job.items()])


def of_batch(connection: Connection, batch_id: int) -> bytes | None:
    """The trace of a batch's first job; None if there is none."""
    query = (
        sa.select(traces.c.trace)
        .join(jobs, jobs.c.id == traces.c.job_id)
        .where(jobs.c.batch_id == batch_id)
        .order_by(jobs.c.position)
        .limit(1)
    )
    return connection.execute(query).scalar_one_or_none()
