"""A route's jobs go to a worse candidate for limits and outages, and under ordered strategies not because a process has no free place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from models.config import Config, RouteConfig
from models.database import Database
from tests.making import make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import Gate, Scripted, chats, config, play
from worker.standings import Standing, Standings
from worker.turns import STALLED_SECONDS, Turns

DATABASES = ["sqlite"]

Start = Callable[..., Bench]
PLACES = 2
BUDGET = 1.5
"""Seconds of a drain that may find nothing to take: more than a new drain leaves to better candidates."""


def routed(strategy: str = "priority") -> Config:
    route = RouteConfig.model_validate({"candidates": ["p/m", "q/m"], "strategy": strategy})
    return config(providers=("p", "q"), concurrency=PLACES).model_copy(update={"routes": {"r": route}})


class Watch:
    """Measures the longest time for which the event loop stood still."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now

    def end(self) -> float:
        self._task.cancel()
        return self.longest


def both(worker: Bench) -> tuple[Gate, Scripted, Scripted]:
    """The candidates: the better one's calls wait at a gate, the other one answers."""
    gate = Gate()
    return gate, play(worker, gate), play(worker, provider="q")


async def finish(worker: Bench, gate: Gate, *drains: asyncio.Future[bool]) -> None:
    gate.opened.set()
    for name in worker.runners:
        worker.runners[name].stop()
    await asyncio.gather(*drains)
    await until(lambda: not any(runner.held for runner in worker.runners.values()))


@pytest.mark.parametrize("strategy", ["priority", "cost_first"])
def test_in_an_ordered_route_full_places_hand_nothing_on(
    start_worker: Start, database: Database, strategy: str
) -> None:
    worker = start_worker(routed(strategy))
    gate, better, worse = both(worker)
    batch = make_batch(database, chats(10, lane="r"))

    async def work() -> None:
        watch = Watch()
        drain = asyncio.ensure_future(worker.runners["p"].drain(600))
        await until(lambda: len(better.sent) == PLACES)
        await worker.runners["q"].drain(BUDGET)
        stood_still = watch.end()
        assert not worse.sent or stood_still > 1, "a machine that stands still silences a candidate"
        gate.opened.set()
        await until(lambda: len(better.sent) + len(worse.sent) == 10)
        await finish(worker, gate, drain)

    worker.run(work())
    assert set(statuses(database, batch)) == {"succeeded"}


@pytest.mark.parametrize("strategy", ["latency_first", "round_robin"])
def test_in_other_routes_all_places_work_at_once(start_worker: Start, database: Database, strategy: str) -> None:
    worker = start_worker(routed(strategy))
    gate, better, worse = both(worker)
    make_batch(database, chats(40, lane="r"))

    async def work() -> None:
        drains = [asyncio.ensure_future(worker.runners[name].drain(600)) for name in ("p", "q")]
        await until(lambda: len(better.sent) == PLACES and len(worse.sent) > 20)
        await finish(worker, gate, *drains)

    worker.run(work())


def test_another_process_of_the_same_candidate_goes_on(start_worker: Start, database: Database) -> None:
    settings = routed()
    full, free = start_worker(settings), start_worker(settings)
    gate, better, worse = both(full)
    other = play(free)
    make_batch(database, chats(20, lane="r"))

    async def fill() -> asyncio.Future[bool]:
        drain = asyncio.ensure_future(full.runners["p"].drain(600))
        await until(lambda: len(better.sent) == PLACES)
        return drain

    async def work() -> None:
        drain = asyncio.ensure_future(free.runners["p"].drain(600))
        await until(lambda: len(other.sent) == 18)
        free.runners["p"].stop()
        await drain

    drain = full.run(fill())
    free.run(work())
    full.run(finish(full, gate, drain))
    assert not worse.sent


@pytest.mark.parametrize("trouble", ["breaker", "stall", "limits"])
def test_trouble_of_the_better_candidate_hands_on_although_its_places_are_full(
    start_worker: Start, database: Database, trouble: str
) -> None:
    worker = start_worker(routed())
    gate, better, worse = both(worker)
    make_batch(database, chats(10, lane="r"))
    runner = worker.runners["p"]

    async def work() -> None:
        drain = asyncio.ensure_future(runner.drain(600))
        await until(lambda: len(better.sent) == PLACES)
        if trouble == "breaker":
            await runner._breaker.record("p", 0, 20)
        elif trouble == "stall":  # as if its calls had been silent for so long
            runner._moved_at -= STALLED_SECONDS + 1
        else:
            elsewhere = asyncio.ensure_future(full_elsewhere(runner._turns))
        other = asyncio.ensure_future(worker.runners["q"].drain(600))
        await until(lambda: len(worse.sent) == 8)
        if trouble == "limits":
            elsewhere.cancel()
        await finish(worker, gate, drain, other)

    async def full_elsewhere(turns: Turns) -> None:
        """Plays another process of the candidate that meets the limits, and has places."""
        while True:
            await turns._standings.tell("p", Standing(False))
            await asyncio.sleep(0.5)

    worker.run(work())
    assert len(better.sent) == PLACES


def test_a_slow_candidate_has_three_of_its_latencies_before_it_counts_as_stalled(
    start_worker: Start, database: Database
) -> None:
    worker = start_worker(routed())
    turns = worker.runners["p"]._turns
    standings = turns._standings
    assert isinstance(standings, Standings)

    async def seen(latency_ms: float | None, silent_for: float) -> Standing:
        await turns.has_room(latency_ms)
        await turns.occupied(latency_ms, time.monotonic() - silent_for)
        return (await standings.view(["p"], [])).standings["p"]

    kept = Standing(True, 60_000.0, places=False)
    assert worker.run(seen(60_000.0, 170)) == kept
    assert not kept.has_room("m")
    assert kept.has_room("m", places=False)
    assert not worker.run(seen(60_000.0, 181)).room
    assert worker.run(seen(None, 20)).room
    assert not worker.run(seen(None, STALLED_SECONDS + 1)).room


def test_a_process_without_a_free_place_leaves_the_models_of_another_one_full(
    start_worker: Start, database: Database
) -> None:
    worker = start_worker(routed())
    turns = worker.runners["p"]._turns

    async def seen() -> Standing:
        await turns._standings.tell("p", Standing(True, full=frozenset({"m"})))
        await turns.occupied(None, time.monotonic())
        return (await turns._standings.view(["p"], [])).standings["p"]

    assert not worker.run(seen()).has_room("m", places=False)
