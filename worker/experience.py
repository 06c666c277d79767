"""What one process has lived through with one provider: how its calls went lately, and how long to leave a pool alone that refuses.

It is only this process's own view, and decides nothing for others: the breaker and the limiter are for all workers together.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BLOCK_SECONDS = 5.0
REMEMBERED_SECONDS = 3600.0
STRAY_SHARE = 0.02
"""Of a provider's calls: so many may go wrong and it still counts as one that answers. Where more do, no job is to blame for its own."""
FIRST_COOL = (1.0, 2.0)
LONGEST_COOL = 15.0
MOST_COOLING = 4096
"""Of so many pools, and models on them, it is remembered: users may name any models."""
LONGEST_TOLD_COOL = 4.0
"""A provider that tells how long to wait needs no guess; a little more is left to all who were told the same."""

Kind = Literal["good", "bad", "limited"]


@dataclass(slots=True)
class _Block:
    began: float
    good: int = 0
    bad: int = 0
    limited: int = 0


class Experience:
    """Good answers, failures of the provider and 429s of the last hour. `clock` is monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._blocks: deque[_Block] = deque()

    def add(self, kind: Kind) -> None:
        """One call more."""
        now = self._clock()
        if not self._blocks or now - self._blocks[-1].began >= BLOCK_SECONDS:
            self._blocks.append(_Block(now))
            while now - self._blocks[0].began > REMEMBERED_SECONDS:
                self._blocks.popleft()
        block = self._blocks[-1]
        setattr(block, kind, getattr(block, kind) + 1)

    def answers_others(self, kind: Kind, seconds: float, own: int) -> bool:
        """Whether nearly all other calls of the last `seconds` went well, and some did: all but those of this `kind`, of which
        `own` were the asking job's."""
        since = self._clock() - seconds
        good = others = 0
        for block in reversed(self._blocks):
            if block.began + BLOCK_SECONDS <= since:
                break
            good += block.good
            others += getattr(block, kind)
        return good > 0 and others - own <= STRAY_SHARE * good


class Cooling:
    """How long pools, or models on them, are left alone after 429s: a second or two at first, twice as long each time that nothing came through
    in between. `clock` is monotonic."""

    def __init__(self, rng: random.Random, clock: Callable[[], float] = time.monotonic) -> None:
        self._rng = rng
        self._clock = clock
        self._rounds: dict[str, int] = {}
        self._began: dict[str, float] = {}
        self._until: dict[str, float] = {}

    def answered(self, pool: str, started: float) -> None:
        """A call on this pool, sent at `started`, wasn't refused. One from before it cooled says nothing about now."""
        if started >= self._began.get(pool, float("-inf")):
            self._rounds.pop(pool, None)

    def seconds(self, pool: str, *, told: bool = False) -> float:
        """How long to cool the pool at least if a 429 is one of several; `told`: it told itself how long to wait."""
        longest = min(LONGEST_TOLD_COOL if told else LONGEST_COOL, FIRST_COOL[1] * 2.0 ** self._rounds.get(pool, 0))
        return self._rng.uniform(longest / 2, longest)

    def cools(self, pool: str, seconds: float) -> None:
        """It cools for so long from now."""
        now = self._clock()
        if len(self._until) >= MOST_COOLING:
            over = [one for one, until in self._until.items() if until + REMEMBERED_SECONDS <= now]
            for one in over or list(self._until)[:1]:
                for memory in (self._until, self._began, self._rounds):
                    memory.pop(one, None)
        if now >= self._until.get(pool, float("-inf")):
            self._rounds[pool] = min(self._rounds.get(pool, 0) + 1, 10)
            self._began[pool] = now
        self._until[pool] = max(self._until.get(pool, now), now + seconds)

    def end(self, pool: str) -> None:
        """It cools no longer, by a person's word."""
        self._until.pop(pool, None)
        self._rounds.pop(pool, None)

    def cool(self, pool: str, seconds: float = 0.0) -> bool:
        """Whether the pool is left alone, as far as this process knows: now, and in so many seconds."""
        return self._clock() + seconds < self._until.get(pool, float("-inf"))
