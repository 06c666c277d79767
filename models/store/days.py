"""Calls of a span of time by key and model, as limits by day count them: what the limiter and people read of a day.

`models.store.traffic` sums the same rows for metrics, by how they ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.tables import attempts, jobs


@dataclass(frozen=True, slots=True)
class Started:
    """Calls of one key and model: their number and the tokens booked for those without a known usage (`open_booked`); of the others
    the tokens that were booked, and those that were used. `larger` sums the larger of the two for each of them."""

    provider: str
    key_id: str
    model: str
    calls: int
    open_booked: int
    booked: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    larger: int


def started(connection: Connection, since: float, before: float) -> list[Started]:
    """Returns the calls that were announced in [since, before). It reads each of them once, by the index on their start."""
    known = sa.and_(attempts.c.input_tokens.is_not(None), attempts.c.output_tokens.is_not(None))
    used = attempts.c.input_tokens + attempts.c.output_tokens
    booked = attempts.c.booked_tokens

    def total(value: sa.ColumnElement[int] | sa.Column[int], where: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((where, value), else_=0)), 0)

    query = (
        sa.select(
            attempts.c.provider,
            attempts.c.key_id,
            attempts.c.requested_model,
            sa.func.count(),
            total(booked, sa.not_(known)),
            total(booked, known),
            total(attempts.c.input_tokens, known),
            total(attempts.c.output_tokens, known),
            total(sa.func.coalesce(attempts.c.cached_tokens, 0), known),
            total(sa.case((booked > used, booked), else_=used), known),
        )
        .where(attempts.c.started_at >= since, attempts.c.started_at < before)
        .group_by(attempts.c.provider, attempts.c.key_id, attempts.c.requested_model)
    )
    return [Started(*row[:3], *(int(number) for number in row[3:])) for row in connection.execute(query)]


def queued_by_lane(connection: Connection) -> dict[str, int]:
    """Returns the number of queued jobs of each lane, over all batches."""
    query = sa.select(jobs.c.lane, sa.func.count()).where(sa.literal_column("status = 'queued'")).group_by(jobs.c.lane)
    return {row[0]: int(row[1]) for row in connection.execute(query)}
