"""Claimed jobs that wait for the limiter: which of them might start now, what they and those under way weigh, which hold a bucket.

It asks the limiter for nothing but to let go of holds; `worker.runner` asks for starts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence

import redis.exceptions

from models.store.claims import Claimed
from worker.limits.limiter import Limiter
from worker.prepared import Prepared

MOST_INPUT_BYTES = 64 * 1024 * 1024
"""Of jobs that wait or are under way."""


class Waiting:
    """Those of one drain, in the order of their claims. `give_back` returns jobs to their lanes. `holding` are those that a bucket is kept free
    for, by job; `slow` tells until when (time.monotonic) the limits of a lane's model let nothing start."""

    def __init__(self, limiter: Limiter, give_back: Callable[[Sequence[Claimed]], Awaitable[None]]) -> None:
        self.holding: set[int] = set()
        self.slow: dict[tuple[str, str], float] = {}
        self._limiter = limiter
        self._give_back = give_back
        self._jobs: list[Prepared] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def room(self) -> int:
        """Bytes of input that may still be claimed."""
        return MOST_INPUT_BYTES - self._bytes

    def add(self, prepared: Prepared) -> None:
        """One more."""
        self._jobs.append(prepared)
        self._bytes += len(prepared.job.body)

    def startable(self) -> list[Prepared]:
        """What might start now: not what its model's own limits hold up, unless a bucket is kept free for it."""
        now = time.monotonic()
        self.slow = {what: until for what, until in self.slow.items() if until > now}
        if not self.slow:
            return list(self._jobs)
        return [one for one in self._jobs if one.job.id in self.holding or one.waits_as not in self.slow]

    def older_than(self, seconds: float) -> bool:
        """Whether any has waited for so long."""
        now = time.monotonic()
        return any(now - one.since >= seconds for one in self._jobs)

    def take(self, which: Callable[[Prepared], bool]) -> list[Prepared]:
        """Takes out those of a kind, which weigh on for as long as they are under way (`let_go`)."""
        taken = [one for one in self._jobs if which(one)]
        if taken:
            gone = {one.job.id for one in taken}
            self._jobs = [one for one in self._jobs if one.job.id not in gone]
        return taken

    def let_go(self, prepared: Prepared) -> None:
        """It weighs nothing any more."""
        self._bytes -= len(prepared.job.body)

    async def give_back(self, jobs: Collection[Prepared], *, keep_holds: bool = False) -> None:
        """Returns jobs that were taken out. `keep_holds`: somebody will ask for them again soon, and goes on with their holds."""
        if not jobs:
            return
        holding = [one.want for one in jobs if one.job.id in self.holding]
        for one in jobs:
            self.let_go(one)
            self.holding.discard(one.job.id)
        await self._give_back([one.job for one in jobs])
        if not keep_holds:
            for want in holding:
                with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
                    await self._limiter.drop_hold(want.id, want.keys)

    def abandon(self) -> list[Prepared]:
        """All of them are somebody else's now. Which they were."""
        jobs, self._jobs, self.holding = self._jobs, [], set()
        for one in jobs:
            self.let_go(one)
        return jobs
