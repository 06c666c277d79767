"""What a drain tells Redis in bulk: what calls really took from their limits, and how many the provider answered or failed.

It decides nothing, and what is lost with Redis is only precision: the limiter errs towards sending less.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import redis.exceptions

from worker.bookings import NOTHING_TAKEN
from worker.breaker import Breaker
from worker.engine import Finished
from worker.limits.limiter import Grant, Limiter, Settlement
from worker.limits.shapes import put_off

log = logging.getLogger("truckllm.tally")

TELL_SECONDS = 0.1


class Tally:
    """Collects for a tenth of a second, then tells. `recovered` is called when the breaker has closed again."""

    def __init__(self, provider: str, limiter: Limiter, breaker: Breaker, recovered: Callable[[], None]) -> None:
        self._provider = provider
        self._limiter = limiter
        self._breaker = breaker
        self._recovered = recovered
        self._settlements: list[Settlement] = []
        self._ok = 0
        self._bad = 0
        self._stuck = False
        self._telling: asyncio.Task[None] | None = None

    def add(self, finished: Finished, grant: Grant, *, alone: bool = False) -> None:
        """Takes in one finished call; `alone`: no other was out with it."""
        if finished.actual is not None and finished.actual != grant.charge:
            self._settlements.append(
                Settlement(grant.key.buckets, grant.slot, grant.charge, finished.actual, grant.days)
            )
        if finished.provider_failed is not None:
            self._bad += finished.provider_failed
            self._ok += not finished.provider_failed
            self._stuck |= alone and finished.stuck
        if self._telling is None:
            self._telling = asyncio.ensure_future(self._tell())

    def unsent(self, grant: Grant) -> None:
        """Takes in a granted call that never left: what was booked for it is free again."""
        self._settlements.append(Settlement(grant.key.buckets, grant.slot, grant.charge, NOTHING_TAKEN, grant.days))
        if self._telling is None:
            self._telling = asyncio.ensure_future(self._tell())

    def late(self, grant: Grant, seconds: float) -> Grant:
        """Takes in that a call starts so much later than it is booked: as what it is to be known from now on."""
        moved, settlements = put_off(grant, seconds)
        self._settlements.extend(settlements)
        if settlements and self._telling is None:
            self._telling = asyncio.ensure_future(self._tell())
        return moved

    async def flush(self) -> None:
        """Waits until all is told."""
        if self._telling:
            await self._telling

    async def _tell(self) -> None:
        await asyncio.sleep(TELL_SECONDS)
        settlements, ok, bad, stuck = self._settlements, self._ok, self._bad, self._stuck
        self._settlements, self._ok, self._bad, self._stuck, self._telling = [], 0, 0, False, None
        try:
            if settlements:
                await self._limiter.settle(settlements)
            if ok or bad:
                was_shut = self._breaker.shut(self._provider)
                if await self._breaker.record(self._provider, ok, bad, stuck=stuck) == "closed" and was_shut:
                    self._recovered()
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            log.info("%s: settlements were lost: %s", self._provider, type(error).__name__)
