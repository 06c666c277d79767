"""The ledger: attempts seen as money and tokens, summed by what one asks for.

It adds nothing up across currencies and guesses no price: what is unknown or unpriced is counted apart.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.money import DEFAULT_CURRENCY
from models.states import JobStatus, Outcome
from models.tables import attempts, jobs

DIMENSIONS = ("provider", "model", "key", "batch", "day", "rerun", "price")
"""What can be summed by: `model` is the requested one, `day` the day in UTC on which the call left, `rerun` one of RERUNS, `price` by what
the cost was counted, or one of PRICES."""

PRICES = ("no cost known", "not noted")
"""A call without a known cost; one whose price older code didn't write down."""

RERUNS = ("never rerun", "before rerun", "since rerun")
"""A call's job was never rerun, or this call was made before it was last rerun, or since."""

JOB = "job"
"""A dimension for programs: the job's number, to be joined with what is known of the job."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The calls of one group in one currency ("" where no cost is known).

    Tokens and `cost_nanos` are those of calls whose reply was read: `failed_nanos` is the part of `cost_nanos` that was billed
    for calls that gave no answer (fenced ones too). `unknown_*` are calls without a whole reply, maybe billed: their number, what the
    limiter had booked for them, and what is known of their cost. `open_calls` are under way. `unpriced_*` are calls that used
    tokens, or something else, for which no price is configured; `untold_calls` are answers of which the provider didn't say what they
    used. `reported_*` are calls of which the provider itself says what they cost, in US dollars: what it says, and what is counted for
    these calls in `cost_nanos` where that is in US dollars, too.
    """

    group: tuple[str, ...]
    currency: str
    calls: int
    succeeded: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_nanos: int
    failed_nanos: int
    failed_billed_calls: int
    unknown_calls: int
    unknown_booked_tokens: int
    unknown_nanos: int
    open_calls: int
    unpriced_calls: int
    unpriced_tokens: int
    untold_calls: int
    reported_calls: int = 0
    reported_nanos: int = 0
    reported_counted_nanos: int = 0


_NUMBERS = tuple(name for name in Spent.__dataclass_fields__ if name not in ("group", "currency"))


@dataclass(frozen=True, slots=True)
class Period:
    """Calls that left at or after `since` and before `until`, in unix seconds; None: no bound."""

    since: float | None = None
    until: float | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        bounds = []
        if self.since is not None:
            bounds.append(attempts.c.started_at >= self.since)
        if self.until is not None:
            bounds.append(attempts.c.started_at < self.until)
        return bounds


ALWAYS = Period()


def spent(
    connection: Connection,
    by: Sequence[str],
    *,
    batch_id: int | None = None,
    job_ids: Sequence[int] | None = None,
    period: Period = ALWAYS,
) -> list[Spent]:
    """Sums by these dimensions (of DIMENSIONS, or JOB) and currency, in their order. Of one batch, of these jobs, of a period, or of
    everything."""
    known = attempts.c.outcome != Outcome.UNKNOWN
    unknown = attempts.c.outcome == Outcome.UNKNOWN
    failed = sa.and_(known, attempts.c.outcome != Outcome.SUCCEEDED)
    under_way = sa.exists().where(
        jobs.c.id == attempts.c.job_id, jobs.c.epoch == attempts.c.epoch, jobs.c.status == JobStatus.RUNNING
    )
    tokens = sa.func.coalesce(attempts.c.input_tokens, 0) + sa.func.coalesce(attempts.c.output_tokens, 0)
    told = sa.or_(attempts.c.input_tokens.is_not(None), attempts.c.output_tokens.is_not(None))
    answered = attempts.c.outcome == Outcome.SUCCEEDED
    unpriced = sa.and_(attempts.c.cost_nanos.is_(None), told, sa.or_(tokens > 0, answered), known)
    opened = sa.and_(unknown, attempts.c.finished_at.is_(None), under_way)
    lost = sa.and_(unknown, sa.not_(opened))
    reported = sa.and_(known, attempts.c.reported_currency == DEFAULT_CURRENCY)
    columns: dict[str, sa.ColumnElement[Any]] = {
        "calls": sa.literal_column("1"),
        "succeeded": _one_if(answered),
        **{
            name: sa.case((known, attempts.c[name]), else_=None)
            for name in ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
        },
        "cost_nanos": sa.case((known, attempts.c.cost_nanos), else_=None),
        "failed_nanos": sa.case((failed, attempts.c.cost_nanos), else_=None),
        "failed_billed_calls": _one_if(sa.and_(failed, attempts.c.cost_nanos > 0)),
        "unknown_calls": _one_if(lost),
        "unknown_booked_tokens": sa.case((lost, attempts.c.booked_tokens), else_=None),
        "unknown_nanos": sa.case((lost, attempts.c.cost_nanos), else_=None),
        "open_calls": _one_if(opened),
        "unpriced_calls": _one_if(unpriced),
        "unpriced_tokens": sa.case((unpriced, tokens), else_=None),
        "untold_calls": _one_if(sa.and_(answered, sa.not_(told), attempts.c.cost_nanos.is_(None))),
        "reported_calls": _one_if(reported),
        "reported_nanos": sa.case((reported, attempts.c.reported_nanos), else_=None),
        "reported_counted_nanos": sa.case(
            (sa.and_(reported, attempts.c.currency == DEFAULT_CURRENCY), attempts.c.cost_nanos), else_=None
        ),
    }
    inner = sa.select(
        *(_dimension(connection, name).label(f"by_{name}") for name in by),
        sa.func.coalesce(attempts.c.currency, "").label("currency"),
        *(columns[name].label(name) for name in _NUMBERS),
    )
    if batch_id is not None:
        inner = inner.where(attempts.c.batch_id == batch_id)
    if job_ids is not None:
        inner = inner.where(attempts.c.job_id.in_(job_ids))
    rows = inner.where(*period.conditions()).subquery()
    groups = [rows.c[f"by_{name}"] for name in by]
    query = (
        sa.select(*groups, rows.c.currency, *(sa.func.coalesce(sa.func.sum(rows.c[name]), 0) for name in _NUMBERS))
        .group_by(*groups, rows.c.currency)
        .order_by(*groups, rows.c.currency)
    )
    found = []
    for values in connection.execute(query):
        group = tuple(_shown(name, value) for name, value in zip(by, values, strict=False))
        numbers = {name: int(value) for name, value in zip(_NUMBERS, values[len(by) + 1 :], strict=True)}
        found.append(Spent(group=group, currency=values[len(by)], **numbers))
    return found


def jobs_with_calls(
    connection: Connection, after: int, *, batch_id: int | None = None, period: Period = ALWAYS, most: int = 1000
) -> list[int]:
    """Returns the next numbers of jobs that calls were made for, after `after`; empty at the end. Deleted jobs are among them."""
    query = (
        sa.select(attempts.c.job_id)
        .where(attempts.c.job_id > after, *period.conditions())
        .distinct()
        .order_by(attempts.c.job_id)
        .limit(most)
    )
    if batch_id is not None:
        query = query.where(attempts.c.batch_id == batch_id)
    return [int(job_id) for job_id in connection.execute(query).scalars()]


def calls_since(connection: Connection, batch_id: int, since: float) -> int:
    """How many calls of the batch have left since then, without those that a provider has turned down."""
    query = (
        sa.select(sa.func.count())
        .select_from(attempts)
        .where(
            attempts.c.started_at > since,
            attempts.c.batch_id == batch_id,
            attempts.c.outcome.in_((Outcome.UNKNOWN, Outcome.SUCCEEDED)),
        )
    )
    return int(connection.execute(query).scalar_one())


def _one_if(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.case((condition, sa.literal_column("1")), else_=sa.literal_column("0"))


def _dimension(connection: Connection, name: str) -> sa.ColumnElement[Any]:
    if name != "day":
        return {
            "provider": attempts.c.provider,
            "model": attempts.c.requested_model,
            "key": attempts.c.key_id,
            "batch": attempts.c.batch_id,
            JOB: attempts.c.job_id,
            "rerun": _rerun(),
            "price": _price(),
        }[name]
    days = attempts.c.started_at / sa.literal_column("86400")
    # SQLite may lack floor(), and its cast cuts; PostgreSQL's cast rounds
    return (
        sa.cast(days, sa.Integer) if connection.dialect.name == "sqlite" else sa.cast(sa.func.floor(days), sa.Integer)
    )


def _price() -> sa.ColumnElement[Any]:
    none, not_noted = map(sa.literal, PRICES)
    return sa.func.coalesce(attempts.c.price, sa.case((attempts.c.cost_nanos.is_(None), none), else_=not_noted))


def _rerun() -> sa.ColumnElement[Any]:
    at = sa.select(jobs.c.rerun_epoch).where(jobs.c.id == attempts.c.job_id).correlate(attempts).scalar_subquery()
    never, before, since = map(sa.literal, RERUNS)
    return sa.case((sa.func.coalesce(at, 0) == 0, never), (attempts.c.epoch <= at, before), else_=since)


def _shown(name: str, value: Any) -> str:
    if name == "day":
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=value)).isoformat()
    return str(value)
