"""What a configuration's keys draw on: pools, and the buckets of each.

It knows nothing of what is booked there, nor whether a key may be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from models.config import KeyConfig, ProviderConfig
from models.pools import pool_name, share
from models.store import keys as key_store
from worker.limits.shapes import Bucket, LimitedKey, Unit

_UNITS: dict[str, Unit] = {
    "limit_req_per_min": "requests",
    "limit_tokens_per_min": "tokens",
    "limit_input_tokens_per_min": "input_tokens",
    "limit_output_tokens_per_min": "output_tokens",
}
DAY_UNITS: dict[str, Unit] = {"limit_req_per_day": "requests", "limit_tokens_per_day": "tokens"}
_OF_DAY = "|day|"


def limited_key(provider: ProviderConfig, key: KeyConfig, model: str, rank: int = 0) -> LimitedKey:
    """The key as the limiter knows it, for calls of this model."""
    made = buckets(provider, key, model)
    return LimitedKey(
        name=f"{provider.id}/{key.id}",
        pool=pool_name(provider, key),
        buckets=made,
        rank=rank,
        learns=_learns(made) if provider.learns(key) else 0,
        use=key.use,
        mark=key_store.fingerprint(key.secret.reveal())[:8],
    )


def _learns(made: Sequence[Bucket]) -> Literal[1, 2]:
    """Returns how limits are learned: where none is configured, from a few calls in flight on."""
    return 1 if any(not bucket.zone for bucket in made) else 2


def buckets(provider: ProviderConfig, key: KeyConfig, model: str) -> tuple[Bucket, ...]:
    """All quotas that a call of this key and model draws on."""
    pool = pool_name(provider, key)
    whole = [Bucket(f"{pool}|{_UNITS[name]}", _UNITS[name], share(key, n)) for name, n in key.limits().items()]
    by_model = [
        Bucket(f"{pool}|{model}|{_UNITS[name]}", _UNITS[name], share(key, n))
        for name, n in provider.model_limits(key, model).items()
    ]
    zone = provider.day_zone(key)
    by_day = [
        _day_bucket(pool, of, DAY_UNITS[name], share(key, n), zone)
        for of, limits in (("", key.day_limits()), (model, provider.model_day_limits(key, model)))
        for name, n in limits.items()
    ]
    return (*whole, *by_model, *by_day)


def _day_bucket(pool: str, model: str, unit: Unit, limit: int, zone: str) -> Bucket:
    return Bucket(day_bucket_id(pool, model, unit, zone), unit, limit, zone, model)


def day_bucket_id(pool: str, model: str, unit: str, zone: str) -> str:
    """Returns the name of a quota a day; `model` "": for all models."""
    return f"{pool}|{model}|{unit}{_OF_DAY}{zone}" if model else f"{pool}|{unit}{_OF_DAY}{zone}"


def zone_of(bucket_id: str) -> str:
    """Returns the time zone of a quota a day."""
    return bucket_id.rpartition(_OF_DAY)[2]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """The limits of a pool: for all its calls, and beside them those for single models; unit → amount a minute. `days` are those a
    day, by model ("" for all its calls): "unit|day|zone" → amount."""

    whole: dict[str, int]
    models: dict[str, dict[str, int]]
    days: dict[str, dict[str, int]] = field(default_factory=dict)


def pool_limits(providers: Sequence[ProviderConfig]) -> dict[str, PoolLimits]:
    """What a configuration says of each pool; keys that share one agree about it."""
    found: dict[str, PoolLimits] = {}
    for provider in providers:
        for key in provider.keys:
            limits = found.setdefault(pool_name(provider, key), PoolLimits({}, {}))
            limits.whole.update({_UNITS[name]: share(key, n) for name, n in key.limits().items()})
            zone = provider.day_zone(key)
            for model in {"", *provider.models, *key.models}:
                own = provider.model_day_limits(key, model) if model else key.day_limits()
                if own:
                    limits.days.setdefault(model, {}).update(
                        {f"{DAY_UNITS[name]}{_OF_DAY}{zone}": share(key, n) for name, n in own.items()}
                    )
            for model in {*provider.models, *key.models}:
                if own := provider.model_limits(key, model):
                    limits.models.setdefault(model, {}).update({_UNITS[name]: share(key, n) for name, n in own.items()})
    return found


def key_pools(providers: Sequence[ProviderConfig]) -> dict[str, str]:
    """By key, "provider/key_id", the pool that it draws on."""
    return {f"{one.id}/{key.id}": pool_name(one, key) for one in providers for key in one.keys}


def ruled(key: LimitedKey, model: str, limits: PoolLimits) -> LimitedKey:
    """The key under limits that another configuration sets."""
    units: dict[str, Unit] = {unit: unit for unit in _UNITS.values()}
    whole = [Bucket(f"{key.pool}|{unit}", units[unit], n) for unit, n in limits.whole.items()]
    by_model = [
        Bucket(f"{key.pool}|{model}|{unit}", units[unit], n) for unit, n in limits.models.get(model, {}).items()
    ]
    by_day = [
        _day_bucket(key.pool, of, units[name.partition("|")[0]], n, zone_of(name))
        for of in ("", model)
        for name, n in limits.days.get(of, {}).items()
    ]
    made = (*whole, *by_model, *by_day)
    return replace(key, buckets=made, learns=_learns(made) if key.learns else 0)
