"""Reruns: jobs that have ended go back into the queue, in their own lane or in another; what they have cost so far stays.

It judges no lane: whoever asks says where each kind of job goes (`models.lanes` knows).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import EMPTY_ANSWER, RUNNABLE, BatchStatus, JobStatus
from models.store.suspects import POISON
from models.tables import attempts, batch_counts, batch_spend, batches, job_inputs, jobs, results

MAY_RERUN = (*RUNNABLE, BatchStatus.PAUSED, BatchStatus.FINALIZING, BatchStatus.COMPLETED)


@dataclass(frozen=True, slots=True)
class Which:
    """The jobs to take: those in `status` (one that jobs end in), and of them those with this error, those last sent to this provider,
    those that asked for this model (by their line, or in their last call), and those of these ids."""

    status: JobStatus = JobStatus.FAILED
    error_code: str | None = None
    provider: str | None = None
    model: str | None = None
    custom_ids: tuple[str, ...] = ()

    @property
    def all(self) -> bool:
        """Whether nothing but the state is asked for."""
        return (self.error_code, self.provider, self.model, self.custom_ids) == (None, None, None, ())


@dataclass(frozen=True, slots=True)
class Kind:
    """What decides where a job may go: the lane it is in, the model that was asked for, the dialect of its body and what that asks for."""

    lane: str
    model: str
    dialect: str
    operation: str


def kinds(connection: Connection, batch_id: int, which: Which) -> list[Kind]:
    """The kinds of these jobs."""
    query = (
        sa.select(jobs.c.lane, jobs.c.model, job_inputs.c.dialect, job_inputs.c.operation)
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .where(*_these(batch_id, which))
        .distinct()
    )
    return [Kind(*row) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Requeued:
    """A chunk: how many jobs, and the position of the last of them (-1: there was none)."""

    number: int = 0
    last: int = -1


def rerun(
    connection: Connection,
    batch_id: int,
    which: Which = Which(),  # noqa: B008 - it is frozen
    *,
    place: Callable[[Kind], tuple[str, str]] | None = None,
    revive: bool = False,
    before: float | None = None,
    after: int = -1,
    most: int = 2000,
) -> Requeued:
    """Queues a chunk of a batch's jobs that have ended again, their attempts kept; call it until it says 0.

    Jobs behind position `after`: given the last one of the chunk before, no chunk reads again what went before it. `place` says the lane and model for a kind of job; without it they stay where they are. Only jobs that ended `before` this moment
    (unix seconds), so that what fails again at once isn't taken twice by one caller. Nothing of a cancelled batch, unless `revive`
    says so and its last job has ended: then the batch runs again. Succeeded jobs lose their results, and the money for these stays
    in the ledger. What `place` raises goes on to the caller.
    """
    may: sa.ColumnElement[bool] = batches.c.status.in_(MAY_RERUN)
    if revive:
        may = sa.or_(
            may,
            sa.and_(
                batches.c.status == BatchStatus.CANCELLED,
                batches.c.finished_at.is_not(None),
                batches.c.loader.is_(None),
            ),
        )
    # locked first, or a cancellation or removal that is committed at this moment would be undone below
    held = sa.select(batches.c.id).where(batches.c.id == batch_id, may).with_for_update(key_share=True)
    if connection.execute(held).first() is None:
        return Requeued()
    query = (
        sa.select(jobs.c.id, jobs.c.position, jobs.c.lane, jobs.c.model, job_inputs.c.dialect, job_inputs.c.operation)
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .where(*_these(batch_id, which), *_ended(before), jobs.c.position > after)
        .order_by(jobs.c.position)
        .limit(most)
        .with_for_update(skip_locked=True, of=jobs)
    )
    groups: dict[tuple[str, str], list[int]] = {}
    last = -1
    for job_id, last, lane, model, dialect, operation in connection.execute(query):  # noqa: B007 - the last one's stays
        where = place(Kind(lane, model, dialect, operation)) if place else (lane, model)
        groups.setdefault(where, []).append(job_id)
    number = sum(len(ids) for ids in groups.values())
    if not number:
        return Requeued()
    for (lane, model), ids in groups.items():
        connection.execute(
            jobs.update()
            .where(jobs.c.id.in_(ids))
            .values(
                status=JobStatus.QUEUED,
                lane=lane,
                model=model,
                epoch=jobs.c.epoch + 1,
                rerun_epoch=jobs.c.epoch,
                excluded="",
                not_before=None,
                # what was poison runs apart again, and has two tries more
                rescues=sa.case((jobs.c.error_code == POISON, jobs.c.rescues), else_=0),
                solo_crashes=0,
                error_code=None,
                error_message=None,
                finished_at=None,
            )
        )
    counted = batch_counts.c[which.status.value]
    job_ids = [job_id for ids in groups.values() for job_id in ids]
    fewer = {counted: counted - number}
    if which.status == JobStatus.SUCCEEDED and (empty := _empty(connection, job_ids)):
        fewer[batch_counts.c.empty] = sa.func.coalesce(batch_counts.c.empty, 0) - empty
    connection.execute(
        batch_counts.update().where(batch_counts.c.batch_id == batch_id, batch_counts.c.shard == 0).values(fewer)
    )
    if which.status == JobStatus.SUCCEEDED:  # after the counters, as everybody locks them
        _give_answers_up(connection, batch_id, job_ids)
    connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status != BatchStatus.PAUSED)
        .values(status=BatchStatus.RUNNING, finished_at=None, finalizer=None, checked_at=None, problem=None)
    )
    return Requeued(number, last)


def _empty(connection: Connection, job_ids: Sequence[int]) -> int:
    """How many of these jobs have an empty answer."""
    query = (
        sa.select(sa.func.count())
        .select_from(results.join(attempts, attempts.c.id == results.c.attempt_id))
        .where(results.c.job_id.in_(job_ids), attempts.c.error_code == EMPTY_ANSWER)
    )
    return int(connection.execute(query).scalar_one())


def _give_answers_up(connection: Connection, batch_id: int, job_ids: Sequence[int]) -> None:
    """Deletes results. Their calls stay as they are; they only count as no answer of their provider's any more."""
    query = (
        sa.select(attempts.c.provider, sa.func.coalesce(attempts.c.currency, "").label("currency"), sa.func.count())
        .join(results, results.c.attempt_id == attempts.c.id)
        .where(results.c.job_id.in_(job_ids))
        .group_by(attempts.c.provider, attempts.c.currency)
        .order_by(attempts.c.provider, attempts.c.currency)
    )
    for provider, currency, number in connection.execute(query).all():
        of_one = (
            sa.select(sa.func.min(batch_spend.c.shard))
            .where(
                batch_spend.c.batch_id == batch_id,
                batch_spend.c.provider == provider,
                batch_spend.c.currency == currency,
            )
            .scalar_subquery()
        )
        connection.execute(
            batch_spend.update()
            .where(
                batch_spend.c.batch_id == batch_id,
                batch_spend.c.provider == provider,
                batch_spend.c.currency == currency,
                batch_spend.c.shard == of_one,
            )
            .values(succeeded=batch_spend.c.succeeded - number)
        )
    connection.execute(results.delete().where(results.c.job_id.in_(job_ids)))


def spent(connection: Connection, batch_id: int, which: Which) -> list[tuple[str, int, int]]:
    """What these jobs have cost so far, by currency ("" where no cost is known): currency, calls, nano-units."""
    currency = sa.func.coalesce(attempts.c.currency, "")
    query = (
        sa.select(currency, sa.func.count(), sa.func.coalesce(sa.func.sum(attempts.c.cost_nanos), 0))
        .join(jobs, jobs.c.id == attempts.c.job_id)
        .where(*_these(batch_id, which))
        .group_by(currency)
        .order_by(currency)
    )
    return [(money, int(calls), int(nanos)) for money, calls, nanos in connection.execute(query)]


def _ended(before: float | None) -> tuple[sa.ColumnElement[bool], ...]:
    if before is None:
        return ()
    return (sa.or_(jobs.c.finished_at.is_(None), jobs.c.finished_at <= before),)


def _these(batch_id: int, which: Which) -> list[sa.ColumnElement[bool]]:
    # literal, or the partial index isn't used
    status: sa.ColumnElement[str] = sa.literal_column(f"'{which.status.value}'")
    requests = jobs.c.lane != ""  # a line that can't be sent has none
    found = [jobs.c.batch_id == batch_id, jobs.c.status == status, requests]
    if which.error_code is not None:
        found.append(jobs.c.error_code == which.error_code)
    if which.provider is not None:
        found.append(jobs.c.provider == which.provider)
    if which.model is not None:
        last = (
            sa.select(attempts.c.requested_model)
            .where(attempts.c.job_id == jobs.c.id)
            .order_by(attempts.c.epoch.desc())
            .limit(1)
            .correlate(jobs)
            .scalar_subquery()
        )
        found.append(sa.or_(jobs.c.model == which.model, last == which.model))
    if which.custom_ids:
        found.append(jobs.c.custom_id.in_(which.custom_ids))
    return found
