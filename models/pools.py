"""How the quotas that keys draw on are called, in every table and in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from models.config import Config, KeyConfig, ProviderConfig
from models.days import used_up
from models.store.cooldowns import Cooldown


def pool_name(provider: ProviderConfig, key: KeyConfig) -> str:
    """The quota that a key draws on: its own, unless it names one that it shares."""
    return f"pool:{key.pool}" if key.pool else f"{provider.id}/{key.id}"


def share(key: KeyConfig, limit: int) -> int:
    """Returns our share of a limit of this key."""
    return max(1, int(limit * key.use + 1e-9))


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


def still_limited(found: Iterable[Cooldown], config: Config) -> list[Cooldown]:
    """Returns the waits without those for a limit by day that the configuration doesn't state any more."""
    waits = list(found)
    if not any(one.configured for one in waits):
        return waits
    stated = {
        (one.pool, one.model, used_up(one.unit, one.limit, one.zone))
        for provider in config.providers
        for key in provider.keys
        for one in day_limits(provider, key)
    }
    return [one for one in waits if not one.configured or (one.pool, one.model, one.reason) in stated]
