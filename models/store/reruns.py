"""Reruns: failed and cancelled jobs go back into the queue, in their own lane or in another; what they have cost so far stays.

It judges no lane: whoever asks says where each kind of job goes (`models.lanes` knows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import RUNNABLE, BatchStatus, JobStatus
from models.store.suspects import POISON
from models.tables import batch_counts, batches, job_inputs, jobs

MAY_RERUN = (*RUNNABLE, BatchStatus.PAUSED, BatchStatus.FINALIZING, BatchStatus.COMPLETED)


@dataclass(frozen=True, slots=True)
class Which:
    """The jobs to take: those in `status` (failed or cancelled), and of them those with this error, or last sent to this provider."""

    status: JobStatus = JobStatus.FAILED
    error_code: str | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """What decides where a job may go: the lane it is in, the model that was asked for, and the dialect of its body."""

    lane: str
    model: str
    dialect: str


def kinds(connection: Connection, batch_id: int, which: Which) -> list[Kind]:
    """The kinds of these jobs."""
    query = (
        sa.select(jobs.c.lane, jobs.c.model, job_inputs.c.dialect)
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .where(*_these(batch_id, which))
        .distinct()
    )
    return [Kind(*row) for row in connection.execute(query)]


def rerun(
    connection: Connection,
    batch_id: int,
    which: Which = Which(),  # noqa: B008 - it is frozen
    *,
    place: Callable[[Kind], tuple[str, str]] | None = None,
    revive: bool = False,
    most: int = 2000,
) -> int:
    """Queues a chunk of a batch's failed or cancelled jobs again, their attempts kept. How many; call it until it says 0.

    `place` says the lane and model for a kind of job; without it they stay where they are. Nothing of a cancelled batch, unless
    `revive` says so and its last job has ended: then the batch runs again. What `place` raises goes on to the caller.
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
    query = (
        sa.select(jobs.c.id, jobs.c.lane, jobs.c.model, job_inputs.c.dialect)
        .join(batches, batches.c.id == jobs.c.batch_id)
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .where(*_these(batch_id, which), may)
        .order_by(jobs.c.position)
        .limit(most)
        .with_for_update(skip_locked=True, of=jobs)
    )
    groups: dict[tuple[str, str], list[int]] = {}
    for job_id, lane, model, dialect in connection.execute(query):
        where = place(Kind(lane, model, dialect)) if place else (lane, model)
        groups.setdefault(where, []).append(job_id)
    number = sum(len(ids) for ids in groups.values())
    if not number:
        return 0
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
    connection.execute(
        batch_counts.update()
        .where(batch_counts.c.batch_id == batch_id, batch_counts.c.shard == 0)
        .values({counted: counted - number})
    )
    connection.execute(
        batches.update()
        .where(batches.c.id == batch_id, batches.c.status != BatchStatus.PAUSED)
        .values(status=BatchStatus.RUNNING, finished_at=None)
    )
    return number


def _these(batch_id: int, which: Which) -> list[sa.ColumnElement[bool]]:
    # literal, or the partial index isn't used
    status: sa.ColumnElement[str] = sa.literal_column(f"'{which.status.value}'")
    requests = jobs.c.lane != ""  # a line that can't be sent has none
    found = [jobs.c.batch_id == batch_id, jobs.c.status == status, requests]
    if which.error_code is not None:
        found.append(jobs.c.error_code == which.error_code)
    if which.provider is not None:
        found.append(jobs.c.provider == which.provider)
    return found
