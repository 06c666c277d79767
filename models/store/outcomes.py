"""What became of a batch's jobs, read for people: pages for exports, listings, the lanes that still wait.

It changes nothing. Pages are taken by key, each in a short transaction, so that no reader holds the writers up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.request import EMBEDDINGS, SIMPLE
from models.states import UNFINISHED, JobStatus
from models.store.batches import claimable_in
from models.tables import attempts, batches, job_inputs, jobs, results

PAGE_ROWS = 1000
PAGE_BYTES = 8 * 1024 * 1024


def page(
    connection: Connection,
    batch_id: int,
    after: int,
    *,
    replies: bool = False,
    most: int = PAGE_ROWS,
    most_bytes: int = PAGE_BYTES,
) -> list[RowMapping]:
    """The next jobs of a batch in input order, with what the results tell of them; empty at the end.

    `after` is the last position seen (-1 at the start). A page ends at `most_bytes` of stored texts; one bigger job comes
    alone. `body` is only there for simple lines, `response` not for those whose result is their text, unless all `replies` are
    asked for.
    `response` and `text` are compressed. The attempt's columns are those of the call that made the result, for a failed job
    those of its last call.
    """
    last = _last_position(connection, batch_id, after, most, most_bytes)
    if last is None:
        return []
    last_call = (
        sa.select(attempts.c.id)
        .where(attempts.c.job_id == jobs.c.id)
        .order_by(attempts.c.epoch.desc())
        .limit(1)
        .scalar_subquery()
    )
    # what a simple line's result needs is its text, except for vectors and the calls of tools
    whole_reply = sa.or_(
        sa.literal(replies),
        job_inputs.c.dialect != SIMPLE,
        job_inputs.c.operation == EMBEDDINGS,
        results.c.text.is_(None),
        _offers_tools(connection),
    )
    rows = (
        sa.select(
            jobs.c.position,
            jobs.c.custom_id,
            jobs.c.status,
            jobs.c.provider,
            jobs.c.attempts,
            jobs.c.error_code,
            jobs.c.error_message,
            job_inputs.c.dialect,
            sa.case((job_inputs.c.dialect == SIMPLE, job_inputs.c.body), else_=None).label("body"),
            job_inputs.c.metadata,
            sa.case((whole_reply, results.c.response), else_=None).label("response"),
            results.c.text,
            results.c.finish_reason,
            results.c.request_id,
            sa.func.coalesce(
                results.c.attempt_id, sa.case((jobs.c.status == JobStatus.FAILED, last_call), else_=None)
            ).label("call_id"),
        )
        .select_from(jobs)
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .outerjoin(results, results.c.job_id == jobs.c.id)
        .where(jobs.c.batch_id == batch_id, jobs.c.position > after, jobs.c.position <= last)
        .order_by(jobs.c.position)
        .limit(most)  # keeps the planner from weaving the two joins into one
        .subquery()
    )
    query = (
        sa.select(
            *rows.c,
            attempts.c.key_id,
            attempts.c.requested_model,
            attempts.c.served_model,
            attempts.c.http_status,
            attempts.c.input_tokens,
            attempts.c.output_tokens,
            attempts.c.cached_tokens,
            attempts.c.cost_nanos,
            attempts.c.currency,
            attempts.c.latency_ms,
        )
        .select_from(rows.outerjoin(attempts, attempts.c.id == rows.c.call_id))
        .order_by(rows.c.position)
    )
    return list(connection.execute(query).mappings())


def _offers_tools(connection: Connection) -> sa.ColumnElement[bool]:
    """Whether a simple line may get calls of tools for an answer: then it names its tools."""
    if connection.dialect.name == "sqlite":
        return sa.func.instr(job_inputs.c.body, sa.literal(b'"tools"')) > 0
    return sa.literal_column("position('\\x22746f6f6c7322'::bytea in job_inputs.body)", sa.Integer) > 0


def _last_position(connection: Connection, batch_id: int, after: int, most: int, most_bytes: int) -> int | None:
    """Where a page after `after` ends; None when there is nothing more."""
    if connection.dialect.name == "sqlite":
        size = sa.func.length(results.c.response) + sa.func.coalesce(sa.func.length(results.c.text), 0)
    else:  # the stored size, without fetching the value
        size = sa.func.pg_column_size(results.c.response) + sa.func.coalesce(sa.func.pg_column_size(results.c.text), 0)
    query = (
        sa.select(jobs.c.position, (jobs.c.input_bytes + sa.func.coalesce(size, 0)).label("bytes"))
        .select_from(jobs.outerjoin(results, results.c.job_id == jobs.c.id))
        .where(jobs.c.batch_id == batch_id, jobs.c.position > after)
        .order_by(jobs.c.position)
        .limit(most)
    )
    last: int | None = None
    room = most_bytes
    for position, taken in connection.execute(query):
        room -= taken
        if last is not None and room < 0:
            break
        last = position
    return last


def listing(
    connection: Connection,
    batch_id: int,
    *,
    status: JobStatus | None = None,
    snoozed: bool = False,
    after: int = -1,
    most: int = PAGE_ROWS,
) -> list[RowMapping]:
    """Jobs of a batch in input order, after position `after`, as one looks at them: no texts. `snoozed`: only those that wait
    for a time."""
    query = (
        sa.select(
            jobs.c.id,
            jobs.c.position,
            jobs.c.custom_id,
            jobs.c.status,
            jobs.c.lane,
            jobs.c.model,
            jobs.c.provider,
            jobs.c.attempts,
            jobs.c.input_bytes,
            jobs.c.error_code,
            jobs.c.error_message,
            jobs.c.not_before,
            jobs.c.finished_at,
        )
        .where(jobs.c.batch_id == batch_id, jobs.c.position > after)
        .order_by(jobs.c.position)
        .limit(most)
    )
    if status is not None:
        query = query.where(jobs.c.status == _literal(status))
    if snoozed:
        query = query.where(jobs.c.not_before.is_not(None))
    return list(connection.execute(query).mappings())


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed jobs of a batch that share an error code. `message` and `custom_id` are those of the first one."""

    code: str
    number: int
    custom_id: str
    message: str


def failures(connection: Connection, batch_id: int, most: int = 10) -> tuple[dict[str, int], list[FailureGroup]]:
    """Returns how many jobs of the batch failed at each provider ("" where none was asked), and the `most` frequent error codes with
    an example each. It reads every failed row once."""
    failed = (jobs.c.batch_id == batch_id, jobs.c.status == _literal(JobStatus.FAILED))
    query = (
        sa.select(jobs.c.provider, jobs.c.error_code, sa.func.count(), sa.func.min(jobs.c.id))
        .where(*failed)
        .group_by(jobs.c.provider, jobs.c.error_code)
    )
    by_provider: Counter[str] = Counter()
    by_code: Counter[str] = Counter()
    first: dict[str, int] = {}
    for provider, code, number, lowest in connection.execute(query):
        by_provider[provider or ""] += int(number)
        by_code[code or ""] += int(number)
        first[code or ""] = min(first.get(code or "", lowest), lowest)
    shown = sorted(by_code, key=lambda code: (-by_code[code], first[code]))[:most]
    # a batch's jobs are numbered in the order of its input
    examples = sa.select(jobs.c.id, jobs.c.custom_id, jobs.c.error_message).where(
        jobs.c.id.in_([first[code] for code in shown])
    )
    by_id = {row.id: row for row in connection.execute(examples)} if shown else {}
    groups = []
    for code in shown:
        example = by_id[first[code]]
        groups.append(FailureGroup(code, by_code[code], example.custom_id, example.error_message or ""))
    return dict(by_provider), groups


def failed_inputs(
    connection: Connection, batch_id: int, after: int, *, most: int = PAGE_ROWS, most_bytes: int = PAGE_BYTES
) -> list[RowMapping]:
    """Returns the next failed jobs after position `after` with what they asked: position, custom_id, model, dialect, operation, body
    and metadata. A page ends at `most_bytes` of input; one bigger job comes alone; empty at the end."""
    failed = (
        jobs.c.batch_id == batch_id,
        jobs.c.status == _literal(JobStatus.FAILED),
        jobs.c.position > after,
    )
    sizes = sa.select(jobs.c.position, jobs.c.input_bytes).where(*failed).order_by(jobs.c.position).limit(most)
    last, room = None, most_bytes
    for position, size in connection.execute(sizes):
        room -= size
        if last is not None and room < 0:
            break
        last = position
    if last is None:
        return []
    query = (
        sa.select(
            jobs.c.position,
            jobs.c.custom_id,
            jobs.c.model,
            job_inputs.c.dialect,
            job_inputs.c.operation,
            job_inputs.c.body,
            job_inputs.c.metadata,
        )
        .join(job_inputs, job_inputs.c.job_id == jobs.c.id)
        .where(*failed, jobs.c.position <= last)
        .order_by(jobs.c.position)
    )
    return list(connection.execute(query).mappings())


def bodies(connection: Connection, job_ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """What these jobs asked, one after another: (job, body). Deleted jobs are left out."""
    query = sa.select(job_inputs.c.job_id, job_inputs.c.body).where(job_inputs.c.job_id.in_(job_ids))
    for job_id, body in connection.execute(query, execution_options={"yield_per": 16}):
        yield job_id, bytes(body)


def metadata(connection: Connection, job_ids: Sequence[int]) -> Iterator[tuple[int, bytes, bytes | None]]:
    """What these jobs asked and what stood beside it, one after another: (job, body, metadata). Deleted jobs are left out."""
    query = sa.select(job_inputs.c.job_id, job_inputs.c.body, job_inputs.c.metadata).where(
        job_inputs.c.job_id.in_(job_ids)
    )
    for job_id, body, beside in connection.execute(query, execution_options={"yield_per": 16}):
        yield job_id, bytes(body), None if beside is None else bytes(beside)


def open_models(connection: Connection, batch_id: int | None = None) -> list[tuple[int, str, str]]:
    """(batch, lane, model) of what waits in batches that haven't ended, or in this one. It reads all jobs that wait."""
    query = (
        sa.select(jobs.c.batch_id, jobs.c.lane, jobs.c.model)
        .join(batches, batches.c.id == jobs.c.batch_id)
        .where(jobs.c.status == _literal(JobStatus.QUEUED), batches.c.status.in_(UNFINISHED))
        .distinct()
        .order_by(jobs.c.batch_id, jobs.c.lane, jobs.c.model)
    )
    if batch_id is not None:
        query = query.where(jobs.c.batch_id == batch_id)
    return [(int(batch_id), lane, model) for batch_id, lane, model in connection.execute(query)]


def last_error(connection: Connection, job_id: int, code: str | None) -> str | None:
    """The message that a job keeps of its last failure, if that has this code."""
    query = sa.select(jobs.c.error_message).where(jobs.c.id == job_id, jobs.c.error_code == code)
    return connection.execute(query).scalar_one_or_none()


def queued_lanes(connection: Connection, batch_id: int) -> set[str]:
    """The lanes in which jobs of the batch wait, snoozed ones included."""
    lanes: set[str] = set()
    queued = (jobs.c.batch_id == batch_id, jobs.c.status == _literal(JobStatus.QUEUED))
    last = ""
    while True:  # one index probe a lane: the smallest lane greater than the last one found
        query = (
            sa.select(jobs.c.lane)
            .where(*queued, jobs.c.not_before.is_(None), jobs.c.lane > last)
            .order_by(jobs.c.lane)
            .limit(1)
        )
        found = connection.execute(query).scalar_one_or_none()
        if found is None:
            break
        lanes.add(found)
        last = found
    # `+ 0` keeps SQLite from walking the whole batch instead of the partial index of snoozed jobs
    snoozed = (
        sa.select(jobs.c.lane)
        .where(jobs.c.batch_id + 0 == batch_id, queued[1], jobs.c.not_before.is_not(None))
        .distinct()
    )
    return lanes | set(connection.execute(snoozed).scalars())


def waits_for_any(connection: Connection, batch_id: int, lane: str, providers: Sequence[str]) -> bool:
    """Whether a queued job of this lane may still go to one of these providers: they haven't all failed it."""
    one = (
        sa.select(jobs.c.id)
        .where(sa.or_(sa.false(), *(jobs.c.excluded.not_like(f"%,{provider},%") for provider in providers)))
        .limit(1)
    )
    ready = one.where(jobs.c.batch_id == batch_id, *claimable_in(lane)).order_by(jobs.c.lane, jobs.c.position)
    snoozed = one.where(
        jobs.c.batch_id + 0 == batch_id,
        jobs.c.lane == lane,
        jobs.c.status == _literal(JobStatus.QUEUED),
        jobs.c.not_before.is_not(None),
    )
    return any(connection.execute(query).first() is not None for query in (ready, snoozed))


def _literal(status: JobStatus) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{status}'")  # literal, or the partial index isn't used
