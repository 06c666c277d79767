"""The limits by day of a configuration, and what the ledger has of the present day for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from models.config import Config, KeyConfig, ProviderConfig
from models.days import Day, day_at, used_up
from models.pools import pool_name, share
from models.store import cooldowns, days
from models.store.cooldowns import Cooldown
from models.store.days import Started


@dataclass(frozen=True, slots=True)
class DayLimit:
    """A limit by day of a pool, for one `model` or ("") for all; `limit` is our share. `unit` is requests or tokens."""

    pool: str
    model: str
    unit: str
    limit: int
    zone: str

    @property
    def field(self) -> str:
        """Its name in the configuration."""
        return "limit_req_per_day" if self.unit == "requests" else "limit_tokens_per_day"


def day_limits(provider: ProviderConfig, key: KeyConfig) -> Iterator[DayLimit]:
    """Returns the limits by day that hold for a key: for all its calls, then for single models."""
    units = {"limit_req_per_day": "requests", "limit_tokens_per_day": "tokens"}
    pool, zone = pool_name(provider, key), provider.day_zone(key)
    for name, limit in key.day_limits().items():
        yield DayLimit(pool, "", units[name], share(key, limit), zone)
    for model in dict.fromkeys((*provider.models, *key.models)):
        for name, limit in provider.model_day_limits(key, model).items():
            yield DayLimit(pool, model, units[name], share(key, limit), zone)


def standing_waits(connection: Connection, config: Config | None, now: float) -> list[Cooldown]:
    """Returns the waits that hold calls back, by pool and model: those that providers have asked for, and limits by day that are used up,
    if the configuration still states them."""
    waits = cooldowns.standing(connection, now)
    if config is None or not any(one.configured for one in waits):
        return waits
    stated = {
        (one.pool, one.model, used_up(one.unit, one.limit, one.zone))
        for provider in config.providers
        for key in provider.keys
        for one in day_limits(provider, key)
    }
    return [one for one in waits if not one.configured or (one.pool, one.model, one.reason) in stated]


@dataclass(frozen=True, slots=True)
class DayUse:
    """The amount that calls have taken of a limit by day, from the day's `start` on; it `resets` at the day's end. In unix seconds."""

    limit: DayLimit
    used: int
    start: int
    resets: int


def day_uses(connection: Connection, config: Config, now: float) -> dict[tuple[str, str], list[DayUse]]:
    """Returns the limits by day and their use by (provider, key id); nothing is read where there are none."""
    limits = {
        (provider.id, key.id): list(day_limits(provider, key)) for provider in config.providers for key in provider.keys
    }
    pools = {
        (provider.id, key.id): (pool_name(provider, key), provider.type)
        for provider in config.providers
        for key in provider.keys
    }
    found: dict[str, tuple[Day, dict[tuple[str, str, str], int]]] = {}
    for zone in {one.zone for its in limits.values() for one in its}:
        day = day_at(zone, now)
        taken: dict[tuple[str, str, str], int] = {}
        for row in days.started(connection, day.start, day.end):
            pool, kind = pools.get((row.provider, row.key_id), ("", ""))
            for model in ("", row.model):
                for unit, amount in (("requests", row.calls), ("tokens", _tokens(row, kind))):
                    taken[pool, model, unit] = taken.get((pool, model, unit), 0) + amount
        found[zone] = day, taken
    return {
        name: [
            DayUse(
                one,
                found[one.zone][1].get((one.pool, one.model, one.unit), 0),
                found[one.zone][0].start,
                found[one.zone][0].end,
            )
            for one in its
        ]
        for name, its in limits.items()
        if its
    }


def _tokens(row: Started, kind: str) -> int:
    """Returns what these calls take of a limit of tokens: by the dialect's rule, as its provider class has it."""
    counted = {
        "openai": row.booked,
        "gemini": row.input_tokens,
        "claude": row.input_tokens - row.cached_tokens + row.output_tokens,
    }
    return row.open_booked + max(0, counted.get(kind, row.input_tokens + row.output_tokens))


def days_of_work(config: Config, names: Sequence[str], requests: int) -> float | None:
    """Returns the days that so many calls take by the limits of requests a day of these providers; None where a key has none."""
    pools: dict[str, int] = {}
    for name in names:
        provider = config.provider(name)
        for key in provider.keys:
            limit = next((one for one in day_limits(provider, key) if (one.unit, one.model) == ("requests", "")), None)
            if limit is None:
                return None
            pools[limit.pool] = limit.limit
    return requests / sum(pools.values()) if pools else None
