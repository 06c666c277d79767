"""Cooldowns and limits by day in words: what waits on which key, until when, and why, for all that shows a batch, a job or a key.

It reads what workers have stored, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy.engine import Connection, RowMapping

from models.config import Config, KeyConfig, ProviderConfig
from models.day_limits import standing_waits
from models.pools import pool_name
from models.states import JobStatus
from models.store import outcomes
from models.store.cooldowns import Cooldown
from models.wording import duration, utc
from submit.bell import providers_of


def sentence(one: Cooldown) -> str:
    """A cooldown with its scope, its end and the provider's words."""
    shared = f" and the other keys of {one.pool.removeprefix('pool:')}" if one.pool.startswith("pool:") else ""
    model = f"model {one.model}" if one.model else "all models"
    if one.configured:
        return (
            f"{one.key}{shared}, {model}: no call starts until {utc(one.until)}: {one.reason}; "
            "only a higher limit in the configuration ends that"
        )
    return (
        f"{one.key}{shared}, {model}: cooling down for {duration(one.until - one.since)}, until {utc(one.until)}: {one.reason}; "
        f"`truckllm keys enable {one.key}` ends that"
    )


def of_batch(connection: Connection, batch_id: int, config: Config | None, now: float) -> tuple[Cooldown, ...]:
    """Returns the cooldowns of all keys that a batch's queued jobs may go to; without a configuration, of all keys."""
    found = standing_waits(connection, config, now)
    if not found or config is None:
        return tuple(found)
    lanes = outcomes.queued_lanes(connection, batch_id)
    names = {name for lane in lanes for name in providers_of(config, lane)}
    pools = {pool_name(one, key) for one in config.providers if one.id in names for key in one.keys}
    return tuple(one for one in found if one.pool in pools)


def of_key(provider: ProviderConfig, key: KeyConfig, found: Iterable[Cooldown]) -> list[Cooldown]:
    """Returns the cooldowns of the pool that a key draws on."""
    return [one for one in found if one.pool == pool_name(provider, key)]


def of_jobs(
    connection: Connection, rows: Sequence[RowMapping], config: Config | None, now: float
) -> dict[int, Cooldown]:
    """What holds back the queued ones of these jobs, by job: of every key that one may go to a cooldown stands, and this one ends
    first."""
    standing = standing_waits(connection, config, now)
    if not standing or config is None:
        return {}
    found = {row["id"]: _of_job(row, config, standing) for row in rows if row["status"] == JobStatus.QUEUED}
    return {number: one for number, one in found.items() if one is not None}


def _of_job(row: RowMapping, config: Config, standing: Sequence[Cooldown]) -> Cooldown | None:
    route = config.routes.get(row["lane"])
    pairs = route.pairs() if route else [(name, row["model"]) for name in providers_of(config, row["lane"])]
    ends = []
    for name, model in pairs:
        provider = config.provider(name)
        for key in provider.keys:
            its = [one for one in of_key(provider, key, standing) if one.model in ("", model)]
            if not its:
                return None
            ends.append(max(its, key=lambda one: one.until))
    return min(ends, key=lambda one: one.until, default=None)
