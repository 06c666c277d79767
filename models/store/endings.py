"""How calls end: the attempt's row, the job's move out of `running`, the result, the counts and the spend, in one transaction.

A job moves only while its epoch and status are those of its claim. The attempt's row is completed in any case: what came back too
late is `fenced`, with its real tokens. Recording the same ending twice changes nothing.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.prices import Cost
from models.request import Usage
from models.states import BatchStatus, JobStatus, Outcome
from models.store import budgets, ends, traces
from models.store.batches import SHARDS
from models.tables import attempts, batch_counts, batch_spend, batches, jobs, results

_ENDS = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
_SUMS = ("succeeded", "calls", "input_tokens", "output_tokens", "cost_nanos")

UNSTORABLE = "unstorable"
"""The error code of a job whose answer the database refused: its call has succeeded all the same, and is in the ledger."""


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """What is known of a call once it is over. `outcome` unknown: no whole reply came, maybe billed."""

    attempt_id: int
    provider: str
    outcome: Outcome
    http_status: int | None = None
    error_code: str | None = None
    served_model: str | None = None
    usage: Usage | None = None
    cost_nanos: int | None = None
    currency: str | None = None
    latency_ms: int | None = None
    finished_at: float = 0.0
    price: str | None = None
    """By what the cost was counted, for people."""
    unbilled: bool = False
    """Whether the provider is known not to bill it."""
    least: Cost | None = None
    """What its tokens cost, where that isn't all that was billed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a succeeded job keeps: `response` and `text` compressed."""

    response: bytes = field(repr=False)
    text: bytes | None = field(repr=False, default=None)
    finish_reason: str | None = None
    request_id: str | None = None
    empty: bool = False
    """It holds nothing, and is kept."""


@dataclass(frozen=True, slots=True)
class Ending:
    """One call's end and what its job does next.

    `status` is `succeeded` (with `answer`), `failed` (with `error_code`) or `queued` (with `not_before` for a snooze, and `excluded`
    for the providers of its route that it may not go to again).
    """

    job_id: int
    batch_id: int
    epoch: int
    status: JobStatus
    attempt: AttemptEnd | None = None
    answer: Answer | None = None
    error_code: str | None = None
    error_message: str | None = None
    not_before: float | None = None
    excluded: str = ""
    trace: bytes | None = field(repr=False, default=None)
    """Of a job of a traced batch: its call, as it is kept."""


# Statements of every commit are built once: building one takes longer than SQLite does to run it.

_LOCK = (
    sa.select(jobs.c.id, jobs.c.epoch, jobs.c.status)
    .where(jobs.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(jobs.c.id)
    .with_for_update()
)
_CALLS = sa.select(attempts.c.id, attempts.c.outcome).where(attempts.c.id.in_(sa.bindparam("ids", expanding=True)))
_CLOSE = attempts.update().where(attempts.c.id == sa.bindparam("b_id"))
_MOVE = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("b_id"))
    .values(epoch=jobs.c.epoch + 1, worker_id=None, attempts=jobs.c.attempts + sa.bindparam("calls"))
)
_KEEP = results.insert()
_COUNT = (
    batch_counts.update()
    .where(batch_counts.c.batch_id == sa.bindparam("b_batch"), batch_counts.c.shard == sa.bindparam("b_shard"))
    .values({name: batch_counts.c[name] + sa.bindparam(f"more_{name}") for name in _ENDS})
)
_COUNT_EMPTY = (
    batch_counts.update()
    .where(batch_counts.c.batch_id == sa.bindparam("b_batch"), batch_counts.c.shard == sa.bindparam("b_shard"))
    .values(empty=sa.func.coalesce(batch_counts.c.empty, 0) + sa.bindparam("more"))
)


@functools.cache
def _add_to_spend(dialect: str) -> sa.Executable:
    # imported by whoever writes: those who only look need no database's own SQL
    insert: Any
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    fresh = insert(batch_spend)
    return fresh.on_conflict_do_update(  # type: ignore[no-any-return]
        index_elements=["batch_id", "shard", "provider", "currency"],
        set_={name: batch_spend.c[name] + fresh.excluded[name] for name in _SUMS},
    )


def record(connection: Connection, endings: Sequence[Ending], shard: int, now: float) -> set[int]:
    """Writes endings down. The batches in which a job has ended, for `batches.finish_if_done` in a transaction after this one.

    Batches to which a job went back are noted in `ends`: one of them may be cancelled at this very moment.
    """
    locked = connection.execute(_LOCK, {"ids": [ending.job_id for ending in endings]})
    held = {row.id: row.epoch for row in locked if row.status == JobStatus.RUNNING}
    calls = [ending.attempt for ending in endings if ending.attempt]
    known = connection.execute(_CALLS, {"ids": [end.attempt_id for end in calls]})
    open_attempts = {row.id for row in known if row.outcome == Outcome.UNKNOWN}
    moving = [ending for ending in endings if held.get(ending.job_id) == ending.epoch]
    moved = {(ending.job_id, ending.epoch) for ending in moving}
    closing = [
        (ending, ending.attempt) for ending in endings if ending.attempt and ending.attempt.attempt_id in open_attempts
    ]
    _close(connection, closing, moved)
    back = {ending.batch_id for ending in moving if ending.status == JobStatus.QUEUED}
    ends.note(connection, back)
    stopped = _cancelled(connection, back)
    _move(connection, moving, stopped, now)
    _keep(connection, [ending for ending in moving if ending.status == JobStatus.SUCCEEDED])
    traces.keep(connection, {ending.job_id: ending.trace for ending in moving if ending.trace is not None})
    spending = {ending.batch_id for ending, end in closing if end.outcome != Outcome.UNKNOWN}
    _count(connection, moving, stopped, spending, shard % SHARDS)
    _spend(connection, closing, moved, shard % SHARDS)
    budgets.settle(
        connection,
        [
            budgets.Settled(
                end.attempt_id,
                end.cost_nanos,
                end.currency,
                lost=end.outcome == Outcome.UNKNOWN,
                unbilled=end.unbilled,
                answered=end.outcome == Outcome.SUCCEEDED,
                least=end.least,
            )
            for _, end in closing
        ],
    )
    return {ending.batch_id for ending in moving if ending.status != JobStatus.QUEUED or ending.batch_id in stopped}


def fail_plainly(connection: Connection, ending: Ending, shard: int, now: float) -> bool:
    """Fails a job whose ending can't be recorded, by as few statements as there can be: with that ending's error, and its call stays
    `unknown`. False when it isn't running in that epoch any more."""
    if ending.attempt is not None:
        connection.execute(
            attempts.update()
            .where(attempts.c.id == ending.attempt.attempt_id, attempts.c.outcome == Outcome.UNKNOWN)
            .values(finished_at=now)
        )
    failed = connection.execute(
        jobs.update()
        .where(jobs.c.id == ending.job_id, jobs.c.epoch == ending.epoch, jobs.c.status == JobStatus.RUNNING)
        .values(
            status=JobStatus.FAILED,
            epoch=jobs.c.epoch + 1,
            worker_id=None,
            attempts=jobs.c.attempts + int(ending.attempt is not None),
            error_code=ending.error_code,
            error_message=ending.error_message,
            finished_at=now,
        )
    )
    if failed.rowcount != 1:
        return False
    connection.execute(
        batch_counts.update()
        .where(batch_counts.c.batch_id == ending.batch_id, batch_counts.c.shard == shard % SHARDS)
        .values(failed=batch_counts.c.failed + 1)
    )
    return True


def _close(connection: Connection, closing: Sequence[tuple[Ending, AttemptEnd]], moved: set[tuple[int, int]]) -> None:
    if not closing:
        return
    connection.execute(
        _CLOSE,
        [
            {
                "b_id": end.attempt_id,
                "outcome": end.outcome
                if (ending.job_id, ending.epoch) in moved or end.outcome == Outcome.UNKNOWN or _never_left(end)
                else Outcome.FENCED,
                "http_status": end.http_status,
                "error_code": end.error_code,
                "served_model": end.served_model,
                "input_tokens": end.usage.input_tokens if end.usage else None,
                "output_tokens": end.usage.output_tokens if end.usage else None,
                "cached_tokens": end.usage.cached_tokens if end.usage else None,
                "cache_write_tokens": end.usage.cache_write_tokens if end.usage else None,
                "reasoning_tokens": end.usage.reasoning_tokens if end.usage else None,
                "cost_nanos": end.cost_nanos,
                "price": end.price,
                "currency": end.currency,
                "reported_nanos": end.usage.reported_cost[0] if end.usage and end.usage.reported_cost else None,
                "reported_currency": end.usage.reported_cost[1] if end.usage and end.usage.reported_cost else None,
                "latency_ms": end.latency_ms,
                "finished_at": end.finished_at,
            }
            for ending, end in closing
        ],
    )


def _never_left(end: AttemptEnd) -> bool:
    """Whether a call certainly never left this machine: then it can't have been billed, however late that is known."""
    return end.outcome == Outcome.FAILED and end.http_status is None and end.usage is None


def _cancelled(connection: Connection, batch_ids: set[int]) -> set[int]:
    if not batch_ids:
        return set()
    query = sa.select(batches.c.id).where(batches.c.id.in_(batch_ids), batches.c.status == BatchStatus.CANCELLED)
    return set(connection.execute(query).scalars())


def _move(connection: Connection, moving: Sequence[Ending], stopped: set[int], now: float) -> None:
    if not moving:
        return
    rows = []
    for ending in moving:
        status = ending.status
        if status == JobStatus.QUEUED and ending.batch_id in stopped:
            status = JobStatus.CANCELLED
        rows.append(
            {
                "b_id": ending.job_id,
                "status": status,
                "calls": 1 if ending.attempt else 0,
                "not_before": ending.not_before if status == JobStatus.QUEUED else None,
                "excluded": ending.excluded,
                "error_code": ending.error_code,
                "error_message": ending.error_message,
                "finished_at": None if status == JobStatus.QUEUED else now,
            }
        )
    connection.execute(_MOVE, rows)


def _keep(connection: Connection, succeeded: Sequence[Ending]) -> None:
    if not succeeded:
        return
    rows = []
    for ending in succeeded:
        assert ending.answer is not None
        assert ending.attempt is not None
        usage = ending.attempt.usage
        rows.append(
            {
                "job_id": ending.job_id,
                "attempt_id": ending.attempt.attempt_id,
                "finish_reason": ending.answer.finish_reason,
                "request_id": ending.answer.request_id,
                "response": ending.answer.response,
                "text": ending.answer.text,
                "input_tokens": usage.input_tokens if usage else None,
                "output_tokens": usage.output_tokens if usage else None,
                "cached_tokens": usage.cached_tokens if usage else None,
                "cost_nanos": ending.attempt.cost_nanos,
                "currency": ending.attempt.currency,
            }
        )
    connection.execute(_KEEP, rows)


def _count(connection: Connection, moving: Sequence[Ending], stopped: set[int], spending: set[int], shard: int) -> None:
    """Counts ended jobs. The counters' row is locked for batches in `spending`, too, though nothing of them may have ended: a row of
    their sums may not be there yet, so only by this one can somebody hold the sums still."""
    ended: dict[int, Counter[str]] = {batch_id: Counter() for batch_id in spending}
    for ending in moving:
        status = ending.status
        if status == JobStatus.QUEUED:
            if ending.batch_id not in stopped:
                continue
            status = JobStatus.CANCELLED
        ended.setdefault(ending.batch_id, Counter())[status] += 1
    if ended:
        connection.execute(
            _COUNT,
            [
                {
                    "b_batch": batch_id,
                    "b_shard": shard,
                    **{f"more_{status}": ended[batch_id][status] for status in _ENDS},
                }
                for batch_id in sorted(ended)
            ],
        )
    empty = Counter(ending.batch_id for ending in moving if ending.answer is not None and ending.answer.empty)
    if empty:
        rows = [{"b_batch": batch_id, "b_shard": shard, "more": number} for batch_id, number in sorted(empty.items())]
        connection.execute(_COUNT_EMPTY, rows)


def _spend(
    connection: Connection, closing: Sequence[tuple[Ending, AttemptEnd]], moved: set[tuple[int, int]], shard: int
) -> None:
    """Adds calls whose end is known to the running sums, so that a live view needn't read the ledger."""
    sums: dict[tuple[int, str, str], list[int]] = {}
    for ending, end in closing:
        if end.outcome == Outcome.UNKNOWN:
            continue
        won = ending.status == JobStatus.SUCCEEDED and (ending.job_id, ending.epoch) in moved
        row = sums.setdefault((ending.batch_id, end.provider, end.currency or ""), [0] * len(_SUMS))
        row[0] += won
        row[1] += 1
        row[2] += end.usage.input_tokens if end.usage else 0
        row[3] += end.usage.output_tokens if end.usage else 0
        row[4] += end.cost_nanos or 0
    late = {ending.batch_id for ending, _ in closing if (ending.job_id, ending.epoch) not in moved}
    if late:  # their batch may have been deleted meanwhile
        there = set(connection.execute(sa.select(batches.c.id).where(batches.c.id.in_(late))).scalars())
        sums = {group: row for group, row in sums.items() if group[0] not in late or group[0] in there}
    if not sums:
        return
    connection.execute(
        _add_to_spend(connection.dialect.name),
        [
            {
                "batch_id": batch_id,
                "shard": shard,
                "provider": provider,
                "currency": currency,
                **dict(zip(_SUMS, values, strict=True)),
            }
            for (batch_id, provider, currency), values in sorted(sums.items())
        ],
    )
