"""Which other candidates of a route could take a job now, as far as this process can find out.

It reads what breakers, keys and standings show; which candidate then takes the job is decided by `worker.routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis.exceptions

from worker.breaker import Breaker
from worker.keys import KeyRing
from worker.standings import Standings

Pair = tuple[str, str]
"""A provider and the model that the route asks it for."""


class Candidates:
    """The providers of one process's routes. `ring` returns the keys of a provider that this process serves, else None."""

    def __init__(self, breaker: Breaker, standings: Standings, ring: Callable[[str], KeyRing | None]) -> None:
        self._breaker = breaker
        self._standings = standings
        self._ring = ring

    def shut(self, provider: str) -> bool:
        """Whether this provider's breaker was open when this process last read it."""
        return self._breaker.shut(provider)

    async def busy(self, pairs: Sequence[Pair], *, room: bool = False) -> list[str]:
        """Those that can't take a job now: their breaker is open, or no key of theirs may be used; with `room` also those whose
        limits let nothing start at this moment. Of one that is served elsewhere only the breaker and the room are known.

        Everyone is busy while Redis is away.
        """
        names = [name for name, _ in pairs]
        if not names:
            return []
        try:
            found = [name for name in names if await self._breaker.look(name)]
            standings = (await self._standings.view(names, [])).standings if room else {}
        except (redis.exceptions.RedisError, OSError, TimeoutError):
            return names
        for name, model in pairs:
            ring, standing = self._ring(name), standings.get(name)
            without_key = ring is not None and not any(ring.usable(one) for one in ring.models_to_try(model))
            if without_key or (standing is not None and not standing.has_room(model)):
                found.append(name)
        return list(dict.fromkeys(found))
