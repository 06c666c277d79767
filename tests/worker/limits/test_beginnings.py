"""No minute over its limit while Redis, workers and configurations come and go: the ledger as it would be is all that stays."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from worker.limits.limiter import Bucket, Grant, LimitedKey, Wait, connect

ANNOUNCED_BEFORE = 0.2
"""Seconds before its start that a call is in the ledger; the runner's."""

HASTE = 10.0
"""So many times the limit, pacing lets through: what keeps it is the ring alone, which is what is put to the test."""

NOT_SMALLER = (Phase.explicit, Phase.reuse, Phase.generate)
"""A smaller seed is no simpler story."""


@dataclass(slots=True)
class Call:
    grant: Grant
    worker: str
    tokens: int
    """As last known."""
    over: bool = False

    @property
    def start(self) -> float:
        return self.grant.start_at

    def of(self, unit: str) -> int:
        return 1 if unit == "requests" else self.tokens


@dataclass
class Town:
    """Workers, one Redis, and every call that went or will go."""

    world: object
    dice: random.Random
    requests: int
    tokens: int

    def __post_init__(self) -> None:
        self.first = self.requests, self.tokens
        self.calls: list[Call] = []
        self.workers: dict[str, object] = {}
        self.waiting: list = []
        self.hired = self.mark = self.runs = 0

    @property
    def key(self) -> LimitedKey:
        buckets = (Bucket("p/k|requests", "requests", self.requests), Bucket("p/k|tokens", "tokens", self.tokens))
        return LimitedKey("p/k", "p/k", buckets, rules=f"m{self.mark}")

    async def hire(self) -> None:
        self.hired += 1
        name = str(self.hired)

        async def others():
            return set(self.workers) - {name}

        limiter = await self.world.limiter(seed=self.ledger, others=others, pace=HASTE)
        await limiter._client.ping()  # connects, and tells the run of a server that all of this is
        await self.client.set("{truckllm}:run", f"r{self.runs}")
        await limiter.meet(name)
        self.workers[name] = limiter

    async def ledger(self, ids):
        told = [call for call in self.calls if self.world.now >= call.start - ANNOUNCED_BEFORE]
        ages = [(max(0.0, self.world.now - call.start), call) for call in told]
        return {name: [(age, call.of(name.rpartition("|")[2])) for age, call in ages] for name in ids}

    async def redis_dies(self, *, empty: bool) -> None:
        """And is back. With its file all is still there, of an earlier run."""
        self.runs += 1
        if empty:
            await self.client.flushall()
            await self.client.set("{truckllm}:limits-mark", f"m{self.mark}")
        await self.client.set("{truckllm}:run", f"r{self.runs}")

    def worker_dies(self, name: str) -> None:
        del self.workers[name]
        gone = [c for c in self.calls if c.worker == name and self.world.now < c.start - ANNOUNCED_BEFORE]
        self.calls = [call for call in self.calls if call not in gone]

    async def limits_change(self) -> None:
        self.mark += 1
        self.requests = max(2, int(self.first[0] * self.dice.choice([0.3, 0.7, 1, 2])))
        self.tokens = max(100, int(self.first[1] * self.dice.choice([0.3, 0.7, 1, 2])))
        await self.client.set("{truckllm}:limits-mark", f"m{self.mark}")

    def booked(self, unit: str, end: float) -> int:
        return sum(call.of(unit) for call in self.calls if end - 60 < call.start <= end)

    async def asks(self, name: str, stale: LimitedKey) -> None:
        fresh = [
            self.world.want([self.key], tokens=int(self.tokens * self.dice.random() ** self.dice.choice([5, 10, 30])))
            for _ in range(max(0, 6 - len(self.waiting)))
        ]
        key = stale if self.dice.random() < 0.2 else self.key
        wants = [replace(want, keys=(key,)) for want in (*self.waiting[:12], *fresh)]
        answers = await self.world.ask(self.workers[name], *wants)
        self.waiting = [w for w, answer in zip(wants, answers, strict=True) if isinstance(answer, Wait)]
        for want, answer in zip(wants, answers, strict=True):
            if isinstance(answer, Grant):
                assert answer.key.rules == f"m{self.mark}"
                self.calls.append(Call(answer, name, want.charge.tokens))
                for unit, limit in (("requests", self.requests), ("tokens", self.tokens)):
                    assert want.charge.of(unit) == 0 or self.booked(unit, answer.start_at) <= limit

    async def ends(self, name: str) -> None:
        """Calls come back, of which some were never sent."""
        for call in [c for c in self.calls if c.worker == name and not c.over and self.dice.random() < 0.5]:
            if self.world.now < call.start - ANNOUNCED_BEFORE and self.dice.random() < 0.3:
                self.calls.remove(call)
                await self.world.settle(self.workers[name], call.grant, requests=0, tokens=0)
            elif self.world.now > call.start:
                call.over, call.tokens = True, int(call.tokens * self.dice.random())
                await self.world.settle(self.workers[name], call.grant, requests=1, tokens=call.tokens)


@settings(max_examples=6, deadline=None, phases=NOT_SMALLER, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), requests=st.integers(2, 40), tokens=st.integers(500, 20_000))
@example(seed=1, requests=6, tokens=20_000)
@example(seed=2, requests=12, tokens=2_000)
def test_no_sixty_seconds_get_more_than_the_limit_whatever_dies_and_whatever_is_changed(
    virtual, seed, requests, tokens
):
    dice = random.Random(seed)

    async def story(world):
        town = Town(world, dice, requests, tokens)
        town.client = connect(world.url)
        await town.client.set("{truckllm}:limits-mark", "m0")
        for _ in range(3):
            await town.hire()
        while world.now < 1_000_000 + 200:
            stale = town.key
            match dice.randrange(50):
                case 0:
                    await town.redis_dies(empty=True)
                case 1:
                    await town.redis_dies(empty=False)
                case 2:
                    town.worker_dies(dice.choice(sorted(town.workers)))
                case 3:
                    await town.limits_change()
                case 4:
                    for name in list(town.workers):
                        town.worker_dies(name)
                    await town.redis_dies(empty=True)
            if not town.workers or (len(town.workers) < 3 and dice.random() < 0.5):
                await town.hire()
            for name in dice.sample(sorted(town.workers), dice.randint(1, len(town.workers))):
                await town.asks(name, stale)
                if dice.random() < 0.3:
                    await town.ends(name)
                world.now += dice.choice([0, 0, 0.05])
            world.now += dice.choice([0, 0.1, 0.3, 0.6, 1, 2])
        await town.client.aclose()

    virtual.run(story)
