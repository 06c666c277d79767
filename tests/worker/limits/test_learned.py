"""Rates that are learned from 429s, in virtual time, against the sandbox's own quotas."""

from __future__ import annotations

import heapq
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from worker.limits.limiter import Grant, Wait
from worker.sandbox.quotas import Pool
from worker.sandbox.settings import Limits

ROUND_TRIP = 0.05


class Server:
    """A server with a limit, and what became of the calls: (when it came, whether it was refused)."""

    def __init__(self, world: Any, limits: dict[str, Any]) -> None:
        self.world = world
        self.calls: list[tuple[float, bool]] = []
        self.limits(limits)

    def limits(self, limits: dict[str, Any]) -> None:
        self.rpm = limits.get("rpm", 3000)
        self.pool = Pool(Limits.model_validate(limits), "openai", self.world.now)

    def arrive(self, at: float) -> float | None:
        """The wait that a refusal states, -1 where it states none; None: it was taken."""
        denial = self.pool.admit("m", 0, at, at)
        self.calls.append((at, denial is not None))
        if denial is None:
            return None
        self.pool.charge_refusal("m", at, False)
        return -1.0 if denial.stated is None else denial.stated

    def between(self, begin: float, end: float) -> tuple[int, float]:
        """Calls that were taken between two times, and the share of those that were refused."""
        mine = [refused for at, refused in self.calls if begin <= at < end]
        return len(mine) - sum(mine), sum(mine) / max(1, len(mine))


async def play(
    world: Any,
    virtual: Any,
    server: Server,
    keys: Any,
    workers: int,
    seconds: float,
    dice: random.Random,
    learns: bool = True,
) -> None:
    """Lets workers with more work than the server takes ask it for `seconds`."""
    line = 48 if server.rpm > 1000 else 16
    made = [
        virtual.Worker(world, await world.limiter(), lambda: world.want([keys], model="m"), line=line)
        for _ in range(workers)
    ]
    end = world.now + seconds
    events: list[tuple[float, int, Any, Any]] = []
    serial = 0
    for worker in made:
        serial += 1
        heapq.heappush(events, (world.now, serial, worker, None))
    skipped: dict[Any, list[float]] = {}
    while events and events[0][0] < end:
        at, _, worker, what = heapq.heappop(events)
        world.now = max(world.now, at)
        serial += 1
        if what is None:
            for grant in await worker.turn():
                serial += 1
                heapq.heappush(events, (grant.start_at + dice.uniform(0.0, ROUND_TRIP), serial, worker, grant))
            serial += 1
            heapq.heappush(events, (max(worker.next, world.now + 0.3), serial, worker, None))
        elif isinstance(what, Grant):
            stated = server.arrive(world.now)
            if stated is not None:
                heapq.heappush(events, (world.now + ROUND_TRIP, serial, worker, (what, stated)))
        else:
            grant, stated = what
            if getattr(worker, "cools", 0.0) > world.now:
                skipped.setdefault(worker, []).append(grant.start_at)
                continue
            found = await worker.limiter.too_many(
                grant.key,
                None if stated < 0 else stated,
                model="m",
                sent=world.now - grant.start_at if learns else None,
                more=[(world.now - one, 1) for one in skipped.pop(worker, [])],
            )
            if found:
                worker.cools = world.now + found[0].seconds
    world.now = end


def rate(limits: dict[str, Any], seconds: float) -> float:
    return limits["rpm"] * seconds / 60


@pytest.mark.parametrize(
    ("limits", "configured", "workers"),
    [
        ({"rpm": 300, "retry_after": 1}, None, 1),
        ({"rpm": 300, "retry_after": 1}, None, 3),
        ({"rpm": 300}, 600, 2),
        ({"rpm": 300, "retry_after": "none"}, 6000, 2),
        ({"rpm": 300, "window": "sliding"}, 600, 2),
    ],
)
def test_the_rate_that_a_server_takes_is_found_and_kept(virtual, limits, configured, workers):
    async def story(world):
        server = Server(world, limits)
        one = virtual.key("p/k", **({"requests": configured} if configured else {}))
        await play(world, virtual, server, one, workers, 120, random.Random(1))
        begin = world.now
        await play(world, virtual, server, one, workers, 150, random.Random(2))
        taken, refused = server.between(begin, world.now)
        assert taken >= 0.93 * rate(limits, 150)
        assert refused <= 0.015

    virtual.run(story)


@settings(max_examples=8, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(
    rpm=st.integers(200, 1500),
    configured=st.sampled_from([None, 1.0, 1.5, 3.0, 10.0]),
    burst=st.floats(1.0, 5.0),
    retry_after=st.sampled_from(["right", "none", 0, 1]),
    workers=st.integers(1, 3),
    seed=st.integers(0, 2**16),
)
def test_a_server_drawn_at_random_refuses_few_calls_in_the_end(
    virtual, rpm, configured, burst, retry_after, workers, seed
):
    limits = {"rpm": rpm, "burst_seconds": burst, "retry_after": retry_after}

    async def story(world):
        server = Server(world, limits)
        one = virtual.key("p/k", **({"requests": int(rpm * configured)} if configured else {}))
        dice = random.Random(seed)
        await play(world, virtual, server, one, workers, 150, dice)
        begin = world.now
        await play(world, virtual, server, one, workers, 120, dice)
        taken, refused = server.between(begin, world.now)
        assert refused <= 0.015
        assert taken >= 0.9 * rate(limits, 120)
        if configured:
            window = virtual.Window()
            for grant in world.granted:
                window.add(grant.start_at, 1)
            assert window.worst() <= int(rpm * configured)

    virtual.run(story)


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_a_limit_that_the_vendor_raises_is_used_within_five_minutes(virtual, factor):
    async def story(world):
        server, one, dice = Server(world, {"rpm": 300}), virtual.key("p/k", requests=6000), random.Random(1)
        await play(world, virtual, server, one, 2, 200, dice)
        server.limits({"rpm": int(300 * factor)})
        await play(world, virtual, server, one, 2, 300, dice)
        begin = world.now
        await play(world, virtual, server, one, 2, 60, dice)
        taken, _ = server.between(begin, world.now)
        assert taken >= 0.9 * 300 * factor

    virtual.run(story)


def test_a_limit_that_the_vendor_lowers_is_found_again(virtual):
    async def story(world):
        server, one, dice = Server(world, {"rpm": 600}), virtual.key("p/k", requests=600), random.Random(1)
        await play(world, virtual, server, one, 2, 60, dice)
        server.limits({"rpm": 200})
        await play(world, virtual, server, one, 2, 60, dice)
        begin = world.now
        await play(world, virtual, server, one, 2, 240, dice)
        taken, refused = server.between(begin, world.now)
        assert taken >= 0.9 * 200 * 4
        assert refused <= 0.02

    virtual.run(story)


@pytest.mark.parametrize("share", [0.001])
def test_stray_429s_cost_next_to_nothing(virtual, share):
    async def story(world):
        server, one, dice = Server(world, {}), virtual.key("p/k", requests=3000), random.Random(1)
        take, strays = server.arrive, random.Random(2)

        def arrive(at):
            if strays.random() < share:
                server.calls.append((at, True))
                return 1.0
            return take(at)

        server.arrive = arrive
        await play(world, virtual, server, one, 2, 100, dice)
        taken, _ = server.between(world.now - 60, world.now)
        assert taken >= 0.96 * 3000

    virtual.run(story)


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_refusals_that_no_rate_causes_don_t_bring_the_rate_down_for_long(virtual, share):
    taken: dict[bool, int] = {}

    async def story(world, learns):
        server, one, dice = Server(world, {}), virtual.key("p/k", requests=1200), random.Random(1)
        faults = random.Random(2)

        def arrive(at):
            refused = faults.random() < share
            server.calls.append((at, refused))
            return -1.0 if refused else None

        server.arrive = arrive
        await play(world, virtual, server, one, 2, 300, dice, learns=learns)
        taken[learns], _ = server.between(world.now - 300, world.now)

    for learns in (False, True):
        virtual.run(lambda world, learns=learns: story(world, learns))
    assert taken[True] >= 0.6 * taken[False]


def test_where_the_configuration_is_right_nothing_is_learned(virtual):
    async def story(world):
        server, one, dice = Server(world, {"rpm": 600}), virtual.key("p/k", requests=600), random.Random(1)
        await play(world, virtual, server, one, 3, 120, dice)
        taken, refused = server.between(world.now - 60, world.now)
        assert taken >= 0.98 * 600
        assert refused == 0

    virtual.run(story)


def test_what_a_model_was_refused_holds_back_no_other_model_and_no_other_pool(virtual):
    async def story(world):
        one, other = virtual.key("p/k"), virtual.key("p/other")
        limiter = await world.limiter()
        await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        for _ in range(4):
            await limiter.too_many(one, None, 0.1, model="m", sent=0.0)
        world.now += 0.2
        for key, model, granted in ((one, "m", 1), (one, "n", 64), (other, "m", 64)):
            wants = [world.want([key], model=model) for _ in range(64)]
            answers = await world.ask(limiter, *wants)
            got = sum(isinstance(answer, Grant) for answer in answers)
            assert got == granted if granted == 64 else got < 16
            assert all(answer.reason == "model" for answer in answers if isinstance(answer, Wait))

    virtual.run(story)


def test_calls_that_were_on_their_way_lower_nothing_again(virtual):
    async def story(world):
        one, limiter = virtual.key("p/k", requests=6000), await world.limiter()

        async def held() -> float:
            answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
            return max(answer.start_at for answer in answers if isinstance(answer, Grant)) - world.now

        await held()
        for _ in range(3):
            await limiter.too_many(one, None, 0.1, model="m", sent=0.0)
        reports = []
        limiter._report = lambda key, model, learned: reports.append(learned)
        for n in range(20):  # sent before the first was answered
            await limiter.too_many(one, None, 0.1, model="m", sent=n / 100)
        assert reports == []

    virtual.run(story)


def test_a_wait_for_a_day_teaches_no_rate(virtual):
    async def story(world):
        one, limiter = virtual.key("p/k"), await world.limiter()
        reports = []
        limiter._report = lambda key, model, learned: reports.append(learned)
        for _ in range(5):
            await world.ask(limiter, world.want([one], model="m"))
            await limiter.too_many(one, 3600.0, model="m", sent=0.0)
        assert reports == []

    virtual.run(story)
