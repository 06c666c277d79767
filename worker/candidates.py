"""Which other candidates of a route could take a job now, as far as this process can find out.

It reads what breakers, keys and standings show; which candidate then takes the job is decided by `worker.routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis.exceptions

from worker.breaker import Breaker
from worker.standings import Standings

Pair = tuple[str, str]
"""A provider and the model that the route asks it for."""


class Candidates:
    """The providers of one process's routes. `rests` returns whether a provider can make no call for a model, as far as this process
    serves it: its address is wrong, or no key may be used, because it is out of use or cools down for long."""

    def __init__(self, breaker: Breaker, standings: Standings, rests: Callable[[str, str], bool]) -> None:
        self._breaker = breaker
        self._standings = standings
        self._rests = rests

    def shut(self, provider: str) -> bool:
        """Returns whether this provider's breaker was open when this process last read it."""
        return self._breaker.shut(provider)

    async def busy(self, pairs: Sequence[Pair], *, room: bool = False) -> list[str]:
        """Returns the providers that can't take a job now: their breaker is open, or they rest; with `room` also those whose limits let nothing
        start at this moment. Of one that is served elsewhere only the breaker and the room are known.

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
            standing = standings.get(name)
            if self._rests(name, model) or (standing is not None and not standing.has_room(model)):
                found.append(name)
        return list(dict.fromkeys(found))
