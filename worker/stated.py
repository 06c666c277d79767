"""The limits that replies state, taken over for all workers where they are below the configured ones.

Reading them is the plugins' (`worker.providers.stated_limits`); what refusals say goes before them (`worker.limits`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import redis.exceptions

from models.request import StatedLimit
from worker.limits.limiter import Limiter
from worker.limits.shapes import LimitedKey

log = logging.getLogger("truckllm.limits")

MINUTE_SECONDS = 60.0
LONGEST_SECONDS = 65.0
"""A limit of a longer window is no limit a minute."""
CHANGED_SHARE = 0.01
MOST_MODELS = 1024


class Stated:
    """What was taken over in this process, by pool and model."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._taken: dict[tuple[str, str], tuple[float, float]] = {}

    async def take(self, key: LimitedKey, model: str, limits: Sequence[StatedLimit]) -> None:
        """Takes over the limits of one reply. Errors of Redis are logged: the next reply states them again."""
        for scope in ("", "account"):
            mine = [one for one in limits if (one.scope == "account") == bool(scope)]
            requests, tokens = _per_minute(key, mine, "requests"), _per_minute(key, mine, "tokens")
            what = key.pool, "" if scope else model
            if not (requests or tokens) or self._taken.get(what) == (requests, tokens):
                continue
            try:
                if await self._limiter.stated(*what, requests, tokens):
                    log.info("%s, model %s: the server states %s", key.pool, what[1] or "any", _words(requests, tokens))
            except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
                log.info("%s: stated limits were not taken over: %s", key.pool, type(error).__name__)
                continue
            if len(self._taken) >= MOST_MODELS:
                del self._taken[next(iter(self._taken))]
            self._taken[what] = requests, tokens


def _per_minute(key: LimitedKey, limits: Sequence[StatedLimit], unit: str) -> float:
    """Returns the smallest limit a minute of a unit; 0.0 where none is below the configured one."""
    found = [
        one.limit * MINUTE_SECONDS / one.window
        for one in limits
        if one.unit == unit and one.limit and one.window and one.window <= LONGEST_SECONDS
    ]
    configured = min((bucket.limit for bucket in key.minutes if bucket.unit == unit), default=float("inf"))
    least = min(found, default=0.0)
    return least if least < configured else 0.0


def _words(requests: float, tokens: float) -> str:
    parts = [f"{round(amount)} {unit}" for amount, unit in ((requests, "requests"), (tokens, "tokens")) if amount]
    return " and ".join(parts) + " a minute"
