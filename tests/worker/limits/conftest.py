"""Limiters in virtual time on a real server; it asserts nothing."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from worker.limits.limiter import (
    Bucket,
    Charge,
    Grant,
    LimitedKey,
    Limiter,
    Settlement,
    TooLarge,
    Wait,
    Want,
    connect,
)


@dataclass
class World:
    """One virtual clock, limiters with a connection each, and everything they granted."""

    url: str
    stack: AsyncExitStack
    now: float = 1_000_000.25
    granted: list[Grant] = field(default_factory=list)
    serial: int = 0
    step: float = 0.0
    """By how much the server's clock has been set forward."""

    async def limiter(self, **options: Any) -> Limiter:
        """A worker's limiter: its own connection, everybody's clock."""
        client = connect(self.url)
        self.stack.push_async_callback(client.aclose)
        options.setdefault("rng", random.Random(self.serial))
        return Limiter(client, clock=lambda: self.now, server_time=lambda: self.now + self.step, **options)

    def want(self, keys: Sequence[LimitedKey], *, model: str = "", **charge: int) -> Want:
        self.serial += 1
        return Want(f"w{self.serial}", Charge(**charge), tuple(keys), model)

    async def ask(self, limiter: Limiter, *wants: Want) -> list[Grant | Wait | TooLarge]:
        answers = await limiter.reserve(wants)
        self.granted += [answer for answer in answers if isinstance(answer, Grant)]
        return answers

    async def settle(self, limiter: Limiter, grant: Grant, **actual: int) -> None:
        await limiter.settle([Settlement(grant.key.buckets, grant.slot, grant.charge, Charge(**actual))])

    async def until_granted(self, limiter: Limiter, want: Want, *, patience: float = 300) -> Grant:
        """Asks again whenever told to, letting time pass, until the want is granted."""
        deadline = self.now + patience
        while self.now < deadline:
            (answer,) = await self.ask(limiter, want)
            if isinstance(answer, Grant):
                return answer
            assert isinstance(answer, Wait), answer
            self.now += answer.seconds
        raise AssertionError(f"{want.id} was not granted within {patience} s")


class Worker:
    """Keeps a line of wants in front of its limiter and asks for them whenever the last answers say so."""

    def __init__(self, world: World, limiter: Limiter, make: Callable[[], Want], *, line: int = 16) -> None:
        self.world, self.limiter, self.make, self.line = world, limiter, make, line
        self.wants: list[Want] = []
        self.next = world.now

    async def turn(self) -> list[Grant]:
        """One call of reserve; sets `next`, the time of the next."""
        while len(self.wants) < self.line:
            self.wants.append(self.make())
        answers = await self.world.ask(self.limiter, *self.wants)
        waits = [answer for answer in answers if isinstance(answer, Wait)]
        waiting = {wait.want_id for wait in waits}
        self.wants = [want for want in self.wants if want.id in waiting]
        # With nothing to wait for, a worker starts what it was granted before it comes back for more.
        self.next = self.world.now + (min(wait.seconds for wait in waits) if waits else 0.1)
        return [answer for answer in answers if isinstance(answer, Grant)]


async def saturate(world: World, workers: Sequence[Worker], seconds: float) -> None:
    """Lets the workers ask as they are told for `seconds` of virtual time."""
    end = world.now + seconds
    while True:
        worker = min(workers, key=lambda worker: worker.next)
        if worker.next >= end:
            world.now = end
            return
        world.now = max(world.now, worker.next)
        await worker.turn()


class Window:
    """Amounts by start time, and the most that any 60 s hold."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, int, int]] = []
        self._serial = 0

    def add(self, start: float, amount: int) -> None:
        self._serial += 1
        insort(self.starts, (start, self._serial, amount))

    def ending(self, at: float) -> int:
        """What started in the 60 s up to and including `at`."""
        low, high = bisect_right(self.starts, (at - 60 + 1e-7, 0, 0)), bisect_left(self.starts, (at + 1e-7, 0, 0))
        return sum(amount for _, _, amount in self.starts[low:high])

    def worst(self) -> int:
        """The fullest 60 s."""
        most = total = low = 0
        for start, _, amount in self.starts:
            total += amount
            while self.starts[low][0] <= start - 60 + 1e-7:
                total -= self.starts[low][2]
                low += 1
            most = max(most, total)
        return most


def key(name: str, *, rank: int = 0, pool: str | None = None, **limits: int) -> LimitedKey:
    """A key with one bucket per given limit, in the pool of its own name unless told otherwise."""
    pool = pool or name
    buckets = tuple(Bucket(f"{pool}|{unit}", unit, limit) for unit, limit in limits.items())  # type: ignore[arg-type]
    return LimitedKey(name, pool, buckets, rank)


class Toolbox:
    """What the tests of this folder share."""

    World, Worker, Window = World, Worker, Window
    saturate = staticmethod(saturate)
    key = staticmethod(key)

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, story: Callable[[World], Awaitable[None]]) -> None:
        """Runs `story` against an emptied server."""

        async def main() -> None:
            async with AsyncExitStack() as stack:
                client = connect(self.url)
                stack.push_async_callback(client.aclose)
                await client.flushall()
                await story(World(self.url, stack))

        asyncio.run(main())


@pytest.fixture(scope="session")
def virtual(valkey_url: str) -> Toolbox:
    return Toolbox(valkey_url)
