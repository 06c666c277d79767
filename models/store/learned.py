"""Learned limits: what a provider really takes of a model on a pool, where that is less than configured.

Redis enforces them; here they stand for people, and for a Redis that has lost them. A reset stands for a minute, so that all workers
see it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.tables import learned_limits

KEPT_SECONDS = 7 * 86_400.0
"""One that wasn't used for so long is forgotten."""
RESET_SECONDS = 60.0
"""How long a reset stands at least. Meanwhile nothing that it covers is stored."""
LATE_SECONDS = 5.0
"""A limit that was stored so soon after a reset may have been read before it."""

_LIMITS = ("requests_per_min", "tokens_per_min", "in_flight")
_KEPT = (*_LIMITS, "configured", "updated_at")
_RESET = (*_KEPT, "counting", "reset_at")


@dataclass(frozen=True, slots=True)
class Learned:
    """What is learned of `model` on `pool`: requests and tokens a minute and calls at once, each None where nothing lowers it.

    `counting` is how the provider counts tokens, as JSON. `configured` is the fingerprint of the configuration that it was learned under
    (`models.learning.fingerprints`). `updated_at` is when it was last stored, in unix seconds of the database.
    """

    pool: str
    model: str
    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    in_flight: float | None = None
    counting: str | None = None
    configured: str = ""
    updated_at: float = 0.0

    @property
    def limits(self) -> tuple[float | None, float | None, float | None]:
        """Requests a minute, tokens a minute, calls at once."""
        return self.requests_per_min, self.tokens_per_min, self.in_flight


@dataclass(frozen=True, slots=True)
class Reset:
    """What a person had forgotten at `at` (unix seconds of the database); an empty `pool` or `model` stands for all."""

    pool: str
    model: str
    at: float

    def covers(self, pool: str, model: str) -> bool:
        """Returns whether it concerns this model on this pool."""
        return self.pool in ("", pool) and self.model in ("", model)


def everything(connection: Connection, now: float) -> list[Learned]:
    """Returns what is learned, by pool and model, without what wasn't used for a week."""
    query = sa.select(learned_limits).where(
        learned_limits.c.reset_at.is_(None), learned_limits.c.updated_at > now - KEPT_SECONDS
    )
    rows = connection.execute(query.order_by(learned_limits.c.pool, learned_limits.c.model)).mappings()
    return [_read(row) for row in rows]


def resets(connection: Connection) -> list[Reset]:
    """Returns the resets that stand."""
    query = sa.select(learned_limits.c.pool, learned_limits.c.model, learned_limits.c.reset_at)
    rows = connection.execute(query.where(learned_limits.c.reset_at.is_not(None)))
    return [Reset(pool, model, at) for pool, model, at in rows]


def keep(connection: Connection, found: Iterable[Learned], now: float) -> list[Learned]:
    """Stores limits in place of those that their models have, except where a reset stands. How tokens are counted stays as it is. Returns
    those that it stored."""
    standing = resets(connection)
    kept = [one for one in found if not any(reset.covers(one.pool, one.model) for reset in standing)]
    rows = [
        {
            "pool": one.pool,
            "model": one.model,
            "requests_per_min": one.requests_per_min,
            "tokens_per_min": one.tokens_per_min,
            "in_flight": one.in_flight,
            "configured": one.configured,
            "updated_at": now,
        }
        for one in sorted(
            kept, key=lambda one: (one.pool, one.model)
        )  # in one order, so that no two workers wait for each other
    ]
    if rows:
        connection.execute(_insert(connection.dialect.name, _KEPT, False), rows)
    return kept


def countings(connection: Connection, pools: Collection[str], now: float) -> list[Learned]:
    """Returns what is stored on how the providers of these pools count tokens, without what wasn't used for a week."""
    query = sa.select(learned_limits).where(
        learned_limits.c.counting.is_not(None),
        learned_limits.c.pool.in_(sorted(pools)),
        learned_limits.c.reset_at.is_(None),
        learned_limits.c.updated_at > now - KEPT_SECONDS,
    )
    rows = connection.execute(query.order_by(learned_limits.c.pool, learned_limits.c.model)).mappings()
    return [_read(row) for row in rows]


def keep_countings(connection: Connection, found: Iterable[Learned], now: float) -> None:
    """Stores how providers count tokens, except where a reset stands, or limits that were learned under another configuration; learned limits stay as
    they are."""
    marks = sa.select(learned_limits.c.pool, learned_limits.c.model, learned_limits.c.configured)
    other = {(pool, model): mark for pool, model, mark in connection.execute(marks)}
    rows = [
        {
            "pool": one.pool,
            "model": one.model,
            "counting": one.counting,
            "configured": one.configured,
            "updated_at": now,
        }
        for one in sorted(found, key=lambda one: (one.pool, one.model))
        if other.get((one.pool, one.model), one.configured) == one.configured
    ]
    if rows:
        connection.execute(_insert(connection.dialect.name, ("counting", "configured", "updated_at"), False), rows)


@functools.cache
def _insert(dialect: str, columns: tuple[str, ...], over_resets: bool) -> sa.Executable:
    """Returns the statement that writes these columns into the row of a pool and model, whether there is one or not; into that of a reset
    only with `over_resets`."""
    # imported by whoever writes: those who only look need no database's own SQL
    insert: Any
    if dialect == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert
    fresh = insert(learned_limits)
    return fresh.on_conflict_do_update(  # type: ignore[no-any-return]
        index_elements=["pool", "model"],
        set_={name: fresh.excluded[name] for name in columns},
        where=None if over_resets else learned_limits.c.reset_at.is_(None),
    )


def remove(connection: Connection, what: Collection[tuple[str, str]]) -> None:
    """Removes what was learned of these models, as (pool, model)."""
    if what:
        gone = learned_limits.delete().where(
            learned_limits.c.pool == sa.bindparam("of_pool"),
            learned_limits.c.model == sa.bindparam("of_model"),
            learned_limits.c.reset_at.is_(None),
        )
        connection.execute(gone, [{"of_pool": pool, "of_model": model} for pool, model in what])


def reset(connection: Connection, pools: Sequence[str], model: str, now: float) -> list[Learned]:
    """Forgets what was learned of a model ("": of all) on these pools ([""]: on all), for all workers within seconds. Returns what was
    stored of it."""
    asked = [Reset(pool, model, now) for pool in dict.fromkeys(pools)]
    found = [one for one in everything(connection, now) if any(each.covers(one.pool, one.model) for each in asked)]
    for each in asked:
        connection.execute(learned_limits.delete().where(*_covered(each)))
    connection.execute(
        learned_limits.insert(),
        [{"pool": one.pool, "model": one.model, "configured": "", "updated_at": now, "reset_at": now} for one in asked],
    )
    return found


def sweep(connection: Connection, now: float) -> None:
    """Removes resets that every worker has seen, with what was stored just after them, and what wasn't used for a week."""
    old = [one for one in resets(connection) if one.at < now - RESET_SECONDS]
    for one in old:
        late = learned_limits.c.updated_at < one.at + LATE_SECONDS
        connection.execute(learned_limits.delete().where(*_covered(one), late))
    connection.execute(learned_limits.delete().where(learned_limits.c.updated_at < now - KEPT_SECONDS))


def _covered(reset: Reset) -> list[sa.ColumnElement[bool]]:
    """Returns the conditions of the rows that a reset covers; earlier resets of less among them, and itself."""
    conditions = []
    if reset.pool:
        conditions.append(learned_limits.c.pool == reset.pool)
    if reset.model:
        conditions.append(learned_limits.c.model == reset.model)
    return conditions


def _read(row: RowMapping) -> Learned:
    return Learned(
        pool=row["pool"],
        model=row["model"],
        requests_per_min=row["requests_per_min"],
        tokens_per_min=row["tokens_per_min"],
        in_flight=row["in_flight"],
        counting=row["counting"],
        configured=row["configured"],
        updated_at=row["updated_at"],
    )
