"""Learned ceilings as they stand in Redis: read, dropped and put back for all workers by one script. See ceilings.lua for the law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import redis.asyncio

from worker.limits.server import Script

_LEARNED = Script("bucket.lua", "ceilings.lua", "learned.lua")
_WIDTH = 7
MOST_LEARNED = 100
"""Models of one pool, as in ceilings.lua."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a model may take on a pool: requests and tokens a minute and calls at once, each 0 where nothing lowers it. `found` is False
    while the limit is searched for; `idle` are the seconds since a call last asked for it."""

    pool: str
    model: str
    requests_per_min: float
    tokens_per_min: float
    in_flight: float
    found: bool = True
    idle: float = 0.0

    @property
    def limits(self) -> tuple[float, float, float]:
        """Requests a minute, tokens a minute, calls at once."""
        return self.requests_per_min, self.tokens_per_min, self.in_flight


async def exchange(
    client: redis.asyncio.Redis,
    pools: Sequence[str],
    *,
    marks: Mapping[str, str] | None = None,
    forget: Sequence[tuple[str, str]] = (),
    seeds: Sequence[Ceiling] = (),
    now: float | None = None,
) -> list[Ceiling]:
    """Returns the ceilings of these pools, after dropping those to `forget` ((pool, model), model "": all), and after putting `seeds` in
    place where their models have none. With `marks`, fingerprints of the pools' configurations, those of all pools in it, after dropping
    what was learned under another one. `now` replaces the server's clock in tests. Raises redis errors."""
    packed = await _LEARNED.run(
        client,
        (False if now is None else now, False),
        list(pools) if marks is None else list(marks),
        [] if marks is None else list(marks.values()),
        forget,
        [(one.pool, one.model, *one.limits) for one in seeds],
    )
    flat = msgspec.msgpack.decode(packed)
    rows = [flat[n : n + _WIDTH] for n in range(0, len(flat), _WIDTH)]
    return [
        Ceiling(pool, model, float(requests), float(tokens), float(in_flight), bool(found), float(idle))
        for pool, model, requests, tokens, in_flight, found, idle in rows
    ]
