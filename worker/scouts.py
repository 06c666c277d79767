"""Who asks whether a provider is back: in an outage in which all jobs wait, one of them is called early, so that not all wait out their
snoozes when it is over.

It makes a job claimable at most; that few calls are made is the breaker's business.
"""

from __future__ import annotations

import contextlib
import time

import redis.exceptions
from sqlalchemy.engine import Connection

from models.store import recoveries
from worker.breaker import Breaker
from worker.engine import Engine


class Scouts:
    """The early calls of one provider, as one process has them made."""

    def __init__(self, engine: Engine, breaker: Breaker) -> None:
        self._engine = engine
        self._breaker = breaker

    @property
    def wanted(self) -> bool:
        """Whether somebody is to ask: the breaker is open, as far as is known here, and the provider hasn't told how long to wait."""
        return self._breaker.shut(self._engine.name) and time.monotonic() >= self._engine.told_until

    async def look(self) -> None:
        """Finds out how the breaker stands: who has just started, or has had nothing to send, can't know."""
        with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
            await self._breaker.look(self._engine.name)

    def send(self, connection: Connection, lanes: list[str], now: float) -> float | None:
        """Has a job become claimable that may ask by now. When (unix seconds) the next may; None if nobody is to."""
        return recoveries.scout(connection, self._engine.name, lanes, now) if self.wanted else None
