"""One drain's part in the routes of its provider: which lanes it may take from now, and what the others are told about it.

The rules are in `worker.routing`, the notice board in `worker.standings`; this keeps a drain's own side of both.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import redis.exceptions

from models.config import Config
from models.store.claims import Claimed
from worker import routing
from worker.standings import Standing, Standings

SETTLE_SECONDS = 0.5
"""How long a new drain leaves a route's lane to better candidates that may not have spoken yet."""

STALLED_SECONDS = 30.0
STALLED_LATENCIES = 3
"""Without a free place, a provider counts as full once no call has ended for so long, and for so many mean latencies: it may hang."""

AWAY = (redis.exceptions.RedisError, OSError, TimeoutError)


class Turns:
    """The routes of one provider, seen from one process. `room` says whether a call of it could start now, `full_models` until when
    (time.monotonic) the limits of single models let none of theirs start."""

    def __init__(self, config: Config, provider: str, standings: Standings) -> None:
        self.lanes = routing.lanes(config, provider)
        self.room = True
        self.full_models: dict[str, float] = {}
        self._config = config
        self._provider = provider
        self._standings = standings
        self._began = float("-inf")

    def begin(self) -> None:
        """A drain begins."""
        self._began = time.monotonic()

    async def open_lanes(self, latency_ms: float | None) -> list[str]:
        """The lanes that may be taken from now: the provider's own, and the routes whose strategy lets it."""
        own, *routed = self.lanes
        if not routed:
            self.full_models.clear()  # nobody asks
            return self.lanes
        peers = {name for lane in routed for name, _ in routing.candidates(self._config, lane)}
        try:
            await self._standings.tell(self._provider, self._standing(latency_ms))
            view = await self._standings.view(peers, [lane for lane in routed if self.takes_turns(lane)])
        except AWAY:
            return [own]
        if time.monotonic() - self._began < SETTLE_SECONDS:
            # the others have just been rung too: the better ones are to speak first
            view = replace(view, standings={name: Standing(True) for name in peers} | dict(view.standings))
        return [own, *(lane for lane in routed if routing.may_take(self._config, lane, self._provider, view))]

    def _standing(self, latency_ms: float | None) -> Standing:
        now = time.monotonic()
        self.full_models = {model: until for model, until in self.full_models.items() if until > now}
        return Standing(self.room, latency_ms, frozenset(self.full_models))

    def takes_turns(self, lane: str) -> bool:
        """Whether the lane's strategy is round_robin."""
        route = self._config.routes.get(lane)
        return route is not None and route.strategy == "round_robin"

    async def full(self, latency_ms: float | None) -> None:
        """No call can start now: others may take."""
        self.room = False
        if len(self.lanes) > 1:
            with contextlib.suppress(*AWAY):
                await self._standings.tell(self._provider, Standing(False, latency_ms))

    async def has_room(self, latency_ms: float | None) -> None:
        """Publishes that calls can start again."""
        self.room = True
        if len(self.lanes) > 1:
            with contextlib.suppress(*AWAY):
                await self._standings.tell(self._provider, self._standing(latency_ms))

    async def occupied(self, latency_ms: float | None, moved_at: float) -> None:
        """Publishes that all places of this process are taken, which hands no job on under an ordered strategy. A provider where no call
        has started or ended since `moved_at` (time.monotonic) for long may hang, and counts as full."""
        if time.monotonic() - moved_at > max(STALLED_SECONDS, STALLED_LATENCIES * (latency_ms or 0.0) / 1000):
            await self.full(latency_ms)
        elif len(self.lanes) > 1:
            with contextlib.suppress(*AWAY):
                known = (await self._standings.view([self._provider], [])).standings.get(self._provider)
                if known is None or known.room:  # another process has just met the limits: its word stands
                    await self._standings.tell(self._provider, replace(self._standing(latency_ms), places=False))

    async def count(self, claimed: Sequence[Claimed]) -> None:
        """Counts what was taken from lanes that go round."""
        for lane, number in Counter(job.lane for job in claimed if self.takes_turns(job.lane)).items():
            with contextlib.suppress(*AWAY):
                await self._standings.took(lane, self._provider, number)
