"""Providers that have answered no call at all, as the ledger shows: none reached them, or what answers isn't their API.

It reads, and decides nothing; the same few rows at any size of the ledger, as long as a provider answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import NEVER_REACHED, WRONG_ENDPOINT, JobStatus, Outcome
from models.store import outcomes
from models.tables import attempts, jobs

_LAST = 1000


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Calls to one provider, of which none was answered. `since` is the start of the first (unix seconds), `code` and `message` are
    those of the last; `message` is None where its job has moved on."""

    since: float
    code: str
    message: str | None


def unanswered(connection: Connection, provider: str, since: float, connecting_since: float) -> Unanswered | None:
    """The calls to a provider that started after `since`; None if there are none, or any was answered, or may yet be: one under way
    from before `connecting_since` has found its server."""
    recent = (
        sa.select(
            attempts.c.provider,
            attempts.c.job_id,
            attempts.c.error_code,
            attempts.c.started_at,
            attempts.c.finished_at,
        )
        .where(attempts.c.started_at > since)
        .order_by(attempts.c.started_at.desc())
        .limit(_LAST)
        .subquery()
    )
    last = connection.execute(
        sa.select(recent)
        .where(recent.c.provider == provider, recent.c.finished_at.is_not(None))
        .order_by(recent.c.started_at.desc())
        .limit(1)
    ).first()
    silent = (*sorted(NEVER_REACHED), WRONG_ENDPOINT)
    if last is None or last.error_code not in silent:
        return None
    mine = (attempts.c.started_at > since, attempts.c.provider == provider)
    answered = sa.and_(
        attempts.c.finished_at.is_not(None),
        sa.or_(attempts.c.error_code.is_(None), attempts.c.error_code.not_in(silent)),
    )
    connected = sa.and_(attempts.c.finished_at.is_(None), attempts.c.started_at < connecting_since)
    if connection.execute(sa.select(attempts.c.id).where(*mine, sa.or_(answered, connected)).limit(1)).first():
        return None
    first = connection.execute(sa.select(sa.func.min(attempts.c.started_at)).where(*mine)).scalar_one()
    return Unanswered(first, last.error_code, outcomes.last_error(connection, last.job_id, last.error_code))


def asked_now(connection: Connection, batch_id: int) -> set[str]:
    """The providers that calls of the batch are out to at this moment."""
    query = (
        sa.select(attempts.c.provider)
        .join(jobs, sa.and_(jobs.c.id == attempts.c.job_id, jobs.c.epoch == attempts.c.epoch))
        .where(
            attempts.c.batch_id == batch_id,
            attempts.c.outcome == sa.literal_column(f"'{Outcome.UNKNOWN}'"),
            jobs.c.status == JobStatus.RUNNING,
        )
        .distinct()
    )
    return set(connection.execute(query).scalars())
