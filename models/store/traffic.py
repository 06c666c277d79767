"""Calls as traffic: how many ended how, how long they took, what they used, by provider, key and model, for a span of time.

It judges nothing. `models.store.ledger` sums the same rows as money, with what is unknown or unpriced told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.states import JobStatus, Outcome
from models.tables import attempts, batch_counts, batches, jobs

BUCKETS_MS = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 120_000, 300_000, 600_000)
"""Upper bounds of the latency histogram, in milliseconds."""

TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Label:
    """What a group of calls has in common; `error_code` is "" where there was none, `currency` where no cost is known."""

    provider: str
    key_id: str
    model: str
    outcome: str
    error_code: str
    currency: str


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over a group: calls, tokens in the order of TOKENS, cost in nano-units, latency in ms over `timed` calls, and how many
    of those took at most as long as each of BUCKETS_MS."""

    calls: int
    tokens: tuple[int, ...]
    cost_nanos: int
    latency_ms: int
    timed: int
    within: tuple[int, ...]

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.calls + other.calls,
            tuple(map(sum, zip(self.tokens, other.tokens, strict=True))),
            self.cost_nanos + other.cost_nanos,
            self.latency_ms + other.latency_ms,
            self.timed + other.timed,
            tuple(map(sum, zip(self.within, other.within, strict=True))),
        )


def ended(connection: Connection, since: float, before: float, abandoned: float) -> Iterator[tuple[Label, Sums]]:
    """The calls that started in [since, before) and whose end is recorded, or will never be: those from before `abandoned`."""
    latency = attempts.c.latency_ms
    query = (
        sa.select(
            attempts.c.provider,
            attempts.c.key_id,
            attempts.c.requested_model,
            attempts.c.outcome,
            sa.func.coalesce(attempts.c.error_code, "").label("code"),
            sa.func.coalesce(attempts.c.currency, "").label("money"),
            sa.func.count(),
            *(_sum(attempts.c[name]) for name in TOKENS),
            _sum(attempts.c.cost_nanos),
            _sum(latency),
            sa.func.count(latency),
            *(_sum(sa.case((latency <= sa.literal_column(str(bound)), 1), else_=0)) for bound in BUCKETS_MS),
        )
        .where(
            attempts.c.started_at >= since,
            attempts.c.started_at < before,
            sa.or_(attempts.c.finished_at.is_not(None), attempts.c.started_at < abandoned),
        )
        .group_by(
            attempts.c.provider, attempts.c.key_id, attempts.c.requested_model, attempts.c.outcome, "code", "money"
        )
    )
    for row in connection.execute(query):
        calls, numbers = int(row[6]), [int(value) for value in row[7:]]
        used, (cost, spent, timed), within = numbers[:5], numbers[5:8], numbers[8:]
        yield Label(*row[:6]), Sums(calls, tuple(used), cost, spent, timed, tuple(within))


def first_open(connection: Connection, since: float) -> float | None:
    """When the oldest call since then started whose end isn't recorded; None if there is none."""
    query = sa.select(sa.func.min(attempts.c.started_at)).where(
        attempts.c.started_at >= since,
        sa.literal_column(f"outcome = '{Outcome.UNKNOWN}'"),
        attempts.c.finished_at.is_(None),
    )
    return connection.execute(query).scalar_one_or_none()


def last_minute(connection: Connection, now: float) -> list[tuple[str, str, int, int]]:
    """(provider, key, calls started, tokens booked) of the last 60 s."""
    query = (
        sa.select(attempts.c.provider, attempts.c.key_id, sa.func.count(), _sum(attempts.c.booked_tokens))
        .where(attempts.c.started_at > now - 60)
        .group_by(attempts.c.provider, attempts.c.key_id)
    )
    return [(row[0], row[1], int(row[2]), int(row[3])) for row in connection.execute(query)]


def under_way(connection: Connection) -> dict[str, int]:
    """Running jobs by the provider that they last went to ("" before their first call)."""
    query = (
        sa.select(sa.func.coalesce(jobs.c.provider, "").label("place"), sa.func.count())
        .where(sa.literal_column(f"jobs.status = '{JobStatus.RUNNING}'"))
        .group_by("place")
    )
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def ended_jobs(connection: Connection) -> dict[str, int]:
    """Jobs of the batches that are still here, by how they ended."""
    names = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)
    row = connection.execute(sa.select(*(_sum(batch_counts.c[name.value]) for name in names))).one()
    return {name.value: int(value) for name, value in zip(names, row, strict=True)}


def batches_by_status(connection: Connection) -> dict[str, int]:
    """How many batches are in each state."""
    query = sa.select(batches.c.status, sa.func.count()).group_by(batches.c.status)
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def unfinished(connection: Connection, most: int) -> list[int]:
    """The numbers of batches that haven't ended, newest first."""
    query = sa.select(batches.c.id).where(batches.c.finished_at.is_(None)).order_by(batches.c.id.desc()).limit(most)
    return [int(number) for number in connection.execute(query).scalars()]


def _sum(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(column), 0)
