"""Cooldowns: waits of more than 30 s that providers have asked for, of a model on a pool or of the whole pool; and the limits by day
of the configuration that are used up.

Redis enforces them; here they stand for people, and for a Redis that has lost those of providers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from models.tables import cooldowns

SHOWN_SECONDS = 30.0
"""A shorter wait isn't stored: it is over before anybody reads of it."""
KEPT_SECONDS = 3600.0
"""How long one is kept after its end, for the call that finds out whether it is over."""
LIFTED_SECONDS = 60.0
"""How long one that a person ended is kept, so that every worker learns of that."""
NAMED, CONFIGURED = 1, 2
"""Values of the column `named`, beside 0."""


@dataclass(frozen=True, slots=True)
class Cooldown:
    """Nothing starts on `pool` from `since` until `until` (unix seconds of the database): of `model`, or of any where that is "".

    `reason` is what the provider said to a call on `key`, "provider/key_id"; `named`: it named the model itself. `lifted` is when
    a person ended it. `configured`: it is a limit by day of the configuration, which nobody ends.
    """

    pool: str
    model: str
    key: str
    reason: str
    since: float
    until: float
    named: bool = False
    lifted: float | None = None
    configured: bool = False

    def stands(self, now: float) -> bool:
        """Returns whether it holds calls back."""
        return self.lifted is None and self.until > now

    def due(self, now: float, longest: float) -> bool:
        """Returns whether `sweep` would change it."""
        over = self.until < now - KEPT_SECONDS or (self.lifted is not None and self.lifted < now - LIFTED_SECONDS)
        return over or self.until > now + longest


def everything(connection: Connection) -> list[Cooldown]:
    """All of them, over and lifted ones too, by pool and model."""
    query = sa.select(cooldowns).order_by(cooldowns.c.pool, cooldowns.c.model)
    return [_read(row) for row in connection.execute(query).mappings()]


def standing(connection: Connection, now: float) -> list[Cooldown]:
    """Returns the cooldowns that hold calls back, by pool and model."""
    return [one for one in everything(connection) if one.stands(now)]


def begin(connection: Connection, one: Cooldown) -> None:
    """Stores a cooldown in place of the one that its model or pool has, unless that holds for longer. A provider's goes before a
    configured limit's."""
    where = (cooldowns.c.pool == one.pool, cooldowns.c.model == one.model)
    least = cooldowns.c.until > one.since if one.configured else cooldowns.c.until >= one.until
    longer = sa.select(cooldowns.c.until).where(
        *where, cooldowns.c.lifted.is_(None), cooldowns.c.named != CONFIGURED, least
    )
    if connection.execute(longer).first() is not None:
        return
    provider, _, key_id = one.key.partition("/")
    connection.execute(cooldowns.delete().where(*where))
    connection.execute(
        cooldowns.insert().values(
            pool=one.pool,
            model=one.model,
            provider=provider,
            key_id=key_id,
            named=CONFIGURED if one.configured else int(one.named),
            reason=one.reason,
            since=one.since,
            until=one.until,
        )
    )


def over(connection: Connection, pool: str, model: str, until: float) -> bool:
    """Removes a cooldown whose end is `until`, because calls are answered again. False when it was another one or none."""
    done = connection.execute(
        cooldowns.delete().where(
            cooldowns.c.pool == pool,
            cooldowns.c.model == model,
            cooldowns.c.until == until,
            cooldowns.c.lifted.is_(None),
        )
    )
    return done.rowcount > 0


def lift(connection: Connection, pool: str, now: float) -> list[Cooldown]:
    """Ends all cooldowns of a pool that providers have asked for, at a person's request. Returns those that stood; workers read this
    within seconds."""
    found = [one for one in standing(connection, now) if one.pool == pool and not one.configured]
    if found:
        connection.execute(
            cooldowns.update()
            .where(cooldowns.c.pool == pool, cooldowns.c.lifted.is_(None), cooldowns.c.named != CONFIGURED)
            .values(lifted=now)
        )
    return found


def sweep(connection: Connection, now: float, longest: float, counts_as: float) -> None:
    """Removes what is long over, and brings ends near that lie more than `longest` seconds ahead, as from a wrong clock: they count as
    `counts_as` seconds from now."""
    gone = sa.or_(cooldowns.c.until < now - KEPT_SECONDS, cooldowns.c.lifted < now - LIFTED_SECONDS)
    connection.execute(cooldowns.delete().where(gone))
    connection.execute(cooldowns.update().where(cooldowns.c.until > now + longest).values(until=now + counts_as))


def of_pools(connection: Connection, pools: Collection[str]) -> list[Cooldown]:
    """Returns the cooldowns of these pools that providers have asked for, over and lifted ones too."""
    return [one for one in everything(connection) if one.pool in pools and not one.configured]


def _read(row: RowMapping) -> Cooldown:
    return Cooldown(
        pool=row["pool"],
        model=row["model"],
        key=f"{row['provider']}/{row['key_id']}",
        reason=row["reason"],
        since=row["since"],
        until=row["until"],
        named=row["named"] == NAMED,
        configured=row["named"] == CONFIGURED,
        lifted=row["lifted"],
    )
