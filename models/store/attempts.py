"""Attempts: announced before a call leaves, so that every call that left has a row, whatever happens then.

How they end is in `models.store.endings`, together with their jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.prices import Cost
from models.states import RUNNABLE, JobStatus, Outcome
from models.store import budgets
from models.store.jobs import give_back
from models.tables import attempts, batches, jobs

UNAFFORDABLE_SECONDS = 1.0
"""How long a job waits that its batch's cap has no room for, until calls under way have shown what they cost."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A call about to leave. `booked_tokens` is what the limiter booked for it. `may_cost`, `most_cost`, `longest_cost`, `learned_cost` and `elsewhere` are as
    `budgets.Reservable` describes them; they are asked only for batches with a cap."""

    attempt_id: int
    job_id: int
    batch_id: int
    epoch: int
    provider: str
    key_id: str
    requested_model: str
    booked_tokens: int
    may_cost: Callable[[], Cost | None] = lambda: None
    most_cost: Callable[[], Cost | None] = lambda: None
    longest_cost: Callable[[], Cost | None] = lambda: None
    learned_cost: Callable[[], Cost | None] = lambda: None
    elsewhere: Callable[[str], str | None] = lambda currency: None


_LOCK = (  # built once: that takes longer than SQLite does to run it
    sa.select(jobs.c.id, jobs.c.epoch)
    .join(batches, batches.c.id == jobs.c.batch_id)
    .where(
        jobs.c.id.in_(sa.bindparam("ids", expanding=True)),
        jobs.c.status == JobStatus.RUNNING,
        batches.c.status.in_(RUNNABLE),
    )
    .order_by(jobs.c.id)
    .with_for_update(of=jobs)
)
_ANNOUNCE = attempts.insert()


def announce(
    connection: Connection, calls: Sequence[Announcement], now: float, passed_on: dict[int, str] | None = None
) -> set[int]:
    """Writes calls down as `unknown`. Returns the ids of those attempts that may be sent once this is committed.

    A call is left out when its job isn't held any more in that epoch, its batch was paused or cancelled meanwhile, or can't afford it
    now: such a job goes back for a second. Into `passed_on` goes, by attempt, the new `excluded` of jobs that other candidates of
    their route are to take, because only those have a price for the batch's cap.
    """
    locked = connection.execute(_LOCK, {"ids": [call.job_id for call in calls]})
    held = {row.id: row.epoch for row in locked}
    valid = [call for call in calls if held.get(call.job_id) == call.epoch]
    refused = budgets.reserve(connection, valid)
    if refused:
        back: dict[str | None, dict[int, int]] = {}
        for call in valid:
            if call.attempt_id in refused:
                back.setdefault(refused[call.attempt_id], {})[call.job_id] = call.epoch
        for excluded, held_jobs in back.items():
            give_back(connection, held_jobs, not_before=now + UNAFFORDABLE_SECONDS, excluded=excluded)
        if passed_on is not None:
            passed_on.update({attempt: excluded for attempt, excluded in refused.items() if excluded is not None})
        valid = [call for call in valid if call.attempt_id not in refused]
    if valid:
        connection.execute(
            _ANNOUNCE,
            [
                {
                    "id": call.attempt_id,
                    "job_id": call.job_id,
                    "batch_id": call.batch_id,
                    "epoch": call.epoch,
                    "provider": call.provider,
                    "key_id": call.key_id,
                    "requested_model": call.requested_model,
                    "outcome": Outcome.UNKNOWN,
                    "booked_tokens": call.booked_tokens,
                    "started_at": now,
                }
                for call in valid
            ],
        )
    return {call.attempt_id for call in valid}


def unsent(connection: Connection, attempt_ids: Sequence[int]) -> None:
    """Takes back announcements of calls that certainly never left this machine; also from jobs that were rescued meanwhile, where
    they have been counted as calls."""
    mine = (attempts.c.id.in_(attempt_ids), attempts.c.outcome == Outcome.UNKNOWN)
    gone = (
        sa.select(jobs.c.id)
        .join(attempts, attempts.c.job_id == jobs.c.id)
        .where(*mine, jobs.c.epoch != attempts.c.epoch)
    )
    rescued = sorted(set(connection.execute(gone).scalars()))
    if rescued:  # jobs are locked before budgets
        connection.execute(
            sa.select(jobs.c.id).where(jobs.c.id.in_(rescued)).order_by(jobs.c.id).with_for_update()
        ).all()
    connection.execute(attempts.delete().where(*mine))
    if rescued:
        # a running job's own call is counted when it ends
        open_call = sa.and_(attempts.c.epoch == jobs.c.epoch, jobs.c.status == JobStatus.RUNNING)
        made = (
            sa.select(sa.func.count()).select_from(attempts).where(attempts.c.job_id == jobs.c.id, sa.not_(open_call))
        )
        connection.execute(
            jobs.update().where(jobs.c.id.in_(rescued)).values(attempts=made.correlate(jobs).scalar_subquery())
        )
    budgets.release(connection, attempt_ids)


def history(connection: Connection, job_id: int) -> list[RowMapping]:
    """The job's calls so far, since a person last reran it, oldest first: epoch, provider, key_id, requested_model, outcome, error_code, http_status, started_at."""
    query = (
        sa.select(
            attempts.c.id,
            attempts.c.epoch,
            attempts.c.provider,
            attempts.c.key_id,
            attempts.c.requested_model,
            attempts.c.outcome,
            attempts.c.error_code,
            attempts.c.http_status,
            attempts.c.started_at,
        )
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(attempts.c.job_id == job_id, attempts.c.epoch > jobs.c.rerun_epoch)
        .order_by(attempts.c.started_at, attempts.c.id)
    )
    return list(connection.execute(query).mappings())


def recent(connection: Connection, since: float, fresh: float, most: int, batch_id: int) -> list[RowMapping]:
    """What became of the last `most` calls started after `since`, counted by provider, outcome, error_code and http_status.

    Calls under way are left out. Also `job_id`, the lowest of them, `mine`: how many were for this batch, and `fresh`: how many
    ended after that moment. The same effort at any size of the ledger.
    """
    last = (
        sa.select(
            attempts.c.provider,
            attempts.c.outcome,
            attempts.c.error_code,
            attempts.c.http_status,
            attempts.c.job_id,
            attempts.c.batch_id,
            attempts.c.finished_at,
        )
        .where(attempts.c.started_at > since)
        .order_by(attempts.c.started_at.desc())
        .limit(most)
        .subquery()
    )
    what = (last.c.provider, last.c.outcome, last.c.error_code, last.c.http_status)
    query = (
        sa.select(
            *what,
            sa.func.count().label("calls"),
            sa.func.min(last.c.job_id).label("job_id"),
            sa.func.sum(sa.case((last.c.batch_id == batch_id, 1), else_=0)).label("mine"),
            sa.func.sum(sa.case((last.c.finished_at > fresh, 1), else_=0)).label("fresh"),
        )
        .where(last.c.finished_at.is_not(None))
        .group_by(*what)
    )
    return list(connection.execute(query).mappings())


def first_failure(connection: Connection, job_id: int) -> float | None:
    """When the job's first call failed for the provider's sake, since a person last reran it."""
    query = (
        sa.select(sa.func.min(attempts.c.started_at))
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(
            attempts.c.job_id == job_id,
            attempts.c.epoch > jobs.c.rerun_epoch,
            attempts.c.outcome.in_((Outcome.FAILED, Outcome.UNKNOWN)),
        )
    )
    return connection.execute(query).scalar_one_or_none()


def started_since(connection: Connection, since: float) -> list[RowMapping]:
    """Calls announced after `since`: provider, key_id, requested_model, booked_tokens, started_at, and the tokens of those that have
    ended. Seeds a fresh limiter."""
    query = sa.select(
        attempts.c.provider,
        attempts.c.key_id,
        attempts.c.requested_model,
        attempts.c.booked_tokens,
        attempts.c.started_at,
        attempts.c.input_tokens,
        attempts.c.output_tokens,
        attempts.c.cached_tokens,
    ).where(attempts.c.started_at > since)
    return list(connection.execute(query).mappings())
