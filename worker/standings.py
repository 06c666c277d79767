"""Where the providers of routes stand: each drain tells the others, through Redis, whether it has room and how fast it is.

It decides nothing: `worker.routing` does, from what is told here. A word is good for two seconds; whoever says nothing isn't there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import redis.asyncio

from worker.limits.server import TAG

GOOD_MILLISECONDS = 2000
REMEMBER_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Standing:
    """The state that a provider's drains last published: `room` says whether its limits let a call start now, `latency_ms` is the mean
    latency of its answers. `full` are the models whose own limits let nothing start while others may. `places` is False while all
    calls that `worker.concurrency` allows the process are in flight."""

    room: bool
    latency_ms: float | None = None
    full: frozenset[str] = frozenset()
    places: bool = True

    def has_room(self, model: str, *, places: bool = True) -> bool:
        """Returns whether a call for this model could start now; without `places`, as far as limits and outages go."""
        return self.room and model not in self.full and (self.places or not places)


@dataclass(frozen=True, slots=True)
class View:
    """What is known at this moment: standings by provider, and by lane how many jobs each provider has taken."""

    standings: Mapping[str, Standing] = field(default_factory=dict)
    taken: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Standings:
    """The notice board in Redis. Redis errors are raised."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def tell(self, provider: str, standing: Standing) -> None:
        """Publishes how `provider` stands. Of several processes that serve it, the last word counts; one without a free place asks
        nothing of the limits, and leaves the models of others alone."""
        latency = "" if standing.latency_ms is None else f"{standing.latency_ms:.0f}"
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set(_name(provider), f"{_state(standing)}:{latency}", px=GOOD_MILLISECONDS)
            if standing.places or standing.full:
                # beside the other, whose form older workers know
                pipe.set(_full(provider), "\n".join(sorted(standing.full)), px=GOOD_MILLISECONDS)
            await pipe.execute()

    async def took(self, lane: str, provider: str, number: int) -> None:
        """Counts jobs that `provider` has taken from a lane."""
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hincrby(_taken(lane), provider, number)
            pipe.expire(_taken(lane), REMEMBER_SECONDS)
            await pipe.execute()

    async def view(self, providers: Iterable[str], lanes: Iterable[str]) -> View:
        """How these providers stand, and what was taken from these lanes."""
        names, counted = list(providers), list(lanes)
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.mget([_name(name) for name in names])
            pipe.mget([_full(name) for name in names])
            for lane in counted:
                pipe.hgetall(_taken(lane))
            told, full, *taken = await pipe.execute()
        standings = {name: _read(word, more) for name, word, more in zip(names, told, full, strict=True) if word}
        by_lane = {
            lane: {provider.decode(): int(number) for provider, number in row.items()}
            for lane, row in zip(counted, taken, strict=True)
        }
        return View(standings, by_lane)


def _name(provider: str) -> str:
    return f"{TAG}:standing:{provider}"


def _full(provider: str) -> str:
    return f"{TAG}:full:{provider}"


def _taken(lane: str) -> str:
    return f"{TAG}:taken:{lane}"


def _state(standing: Standing) -> str:
    """Returns 1 for room, 2 for room without a free place, 0 for none. Older workers read all but 1 as no room."""
    if not standing.room:
        return "0"
    return "1" if standing.places else "2"


def _read(word: bytes, full: bytes | None) -> Standing:
    state, _, latency = word.decode().partition(":")
    models = frozenset((full or b"").decode().split("\n")) - {""}
    return Standing(state in ("1", "2"), float(latency) if latency else None, models, places=state != "2")
