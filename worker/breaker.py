"""The circuit breaker of each provider, shared by all workers through Redis.

It judges no reply and sends no probe: the engine says what was good and bad, and asks before it sends.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import redis.asyncio

from worker.limits.server import Script

_SCRIPT = Script("breaker.lua", folder=Path(__file__).parent)

State = Literal["closed", "open"]


class Breaker:
    """Opens for a provider when, within `window` seconds, at least `least_bad` calls went bad and they are at least `share`
    of all; or when, within `hurry` seconds, so many did and hardly any went well; or when two did and none went well, and whoever saw that
    has nothing else to send. While it is open one probe may go every `probe_every` seconds, of all workers together; the first good answer
    after a probe closes it.

    `server_time` replaces the server's clock, for tests in virtual time: production passes none.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        window: float = 10.0,
        least_bad: int = 5,
        share: float = 0.5,
        probe_every: float = 5.0,
        hurry: float = 2.0,
        server_time: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._settings = (window, least_bad, share, probe_every, hurry)
        self._open: set[str] = set()
        self._server_time = server_time
        self._rng = rng or random.Random()

    async def record(self, provider: str, ok: int, bad: int, *, stuck: bool = False) -> State:
        """Counts calls of `provider` that were answered (`ok`; a refusal of the request is an answer) and that failed for
        the provider's sake (`bad`); `stuck`: one of those had failed before, and no other call is out. Returns how the breaker
        stands now. Raises redis errors."""
        if ok <= 0 and bad <= 0:
            raise ValueError("nothing to record")
        reply = await _SCRIPT.run(self._client, self._now(), provider, *self._settings, "record", ok, bad, stuck)
        return self._note(provider, reply == b"open")

    def shut(self, provider: str) -> bool:
        """Whether the breaker was open when this process last heard of it."""
        return provider in self._open

    async def look(self, provider: str) -> bool:
        """Whether it is open, asked without wanting to send anything. Raises redis errors."""
        _, seconds = await _SCRIPT.run(self._client, self._now(), provider, *self._settings, "admit", 0)
        return self._note(provider, float(seconds) > 0) == "open"

    def _note(self, provider: str, is_open: bool) -> State:
        (self._open.add if is_open else self._open.discard)(provider)
        return "open" if is_open else "closed"

    async def admit(self, provider: str, count: int) -> tuple[int, float]:
        """How many of `count` calls may go now, and in how many seconds (slightly jittered) to ask for the others: all of
        them while closed, at most one probe while open, with the seconds until the next. Raises redis errors."""
        allowed, seconds = await _SCRIPT.run(self._client, self._now(), provider, *self._settings, "admit", count)
        wait = float(seconds)
        self._note(provider, wait > 0 or int(allowed) < count)
        if allowed >= count:
            return int(allowed), 0.0
        # whoever asks asks Redis only; what is late here is late in being back
        return int(allowed), max(wait, 0.01) + self._rng.uniform(0.0, 0.1)

    def _now(self) -> float | bool:
        return False if self._server_time is None else self._server_time()
