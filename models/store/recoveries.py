"""When a provider is back: the jobs that wait because it had failed needn't wait any longer.

It wakes nothing itself, it only brings their time nearer.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import JobStatus, Outcome
from models.tables import attempts, jobs

SPREAD_SECONDS = 2.0
"""They come back over so long a time, not all at once."""
_STEPS = 64


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
