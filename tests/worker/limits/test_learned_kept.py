"""Learned ceilings as a worker carries them: read as they stand, put back where they are missing, dropped where they are worthless."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.worker.limits.servers import Scenario
from tests.worker.limits.simulated import Simulation, simulate
from worker.limits.learned import MOST_LEARNED, Ceiling, exchange

Story = Callable[[Any], Awaitable[None]]
SEED = Ceiling("p/k", "m", 300.0, 0.0, 0.0)
DAY = 86_400.0


async def carry(world: Any, *pools: str, **what: Any) -> list[Ceiling]:
    limiter = await world.limiter()
    return await exchange(limiter._client, pools or ("p/k",), now=world.now, **what)


async def put(simulation: Simulation, *seeds: Ceiling) -> list[Ceiling]:
    return await exchange(simulation.redis, ["p/k0"], seeds=seeds, now=simulation.now)


def test_a_seed_stands_as_found_and_at_its_rate_from_the_first_second(virtual: Any) -> None:
    async def story(simulation: Simulation) -> None:
        (one,) = await put(simulation, replace(SEED, pool="p/k0"))
        assert (one.pool, one.model, one.found, one.idle) == ("p/k0", "m", True, 0)
        assert one.requests_per_min == pytest.approx(300)
        await simulation.run(60)

    simulation = simulate(virtual.url, Scenario({"rpm": 300}, {"requests": 600}), story)
    assert simulation.refused(0, 60) < 0.01
    assert simulation.share(0, 60) > 0.9


def test_a_seed_replaces_nothing_that_stands(virtual: Any) -> None:
    async def story(world: Any) -> None:
        await carry(world, seeds=[SEED])
        found = await carry(world, seeds=[replace(SEED, requests_per_min=100.0), replace(SEED, model="n")])
        assert {one.model: round(one.requests_per_min) for one in found} == {"m": 300, "n": 300}

    virtual.run(story)


def test_a_pool_with_as_many_models_as_are_kept_takes_no_more_seeds(virtual: Any) -> None:
    async def story(world: Any) -> None:
        found = await carry(world, seeds=[replace(SEED, model=f"m{n}") for n in range(MOST_LEARNED + 5)])
        assert len(found) == MOST_LEARNED

    virtual.run(story)


@pytest.mark.parametrize(
    ("forget", "left"), [([("p/k", "m")], {"n"}), ([("p/k", "")], set()), ([("p/other", "m")], {"m", "n"})]
)
def test_what_is_to_be_forgotten_is_gone_for_all(virtual: Any, forget: list[tuple[str, str]], left: set[str]) -> None:
    async def story(world: Any) -> None:
        await carry(world, seeds=[SEED, replace(SEED, model="n")])
        await carry(world, forget=forget)
        assert {one.model for one in await carry(world)} == left

    virtual.run(story)


def test_another_configuration_drops_what_its_pool_has_learned(virtual: Any) -> None:
    async def story(world: Any) -> None:
        marks = {"p/k": "one", "p/l": "two"}
        await carry(world, marks=marks)
        await carry(world, "p/k", "p/l", seeds=[SEED, replace(SEED, pool="p/l")])
        assert len(await carry(world, marks=marks)) == 2, "the same configuration again"
        (one,) = await carry(world, marks={**marks, "p/k": "three"})
        assert one.pool == "p/l"

    virtual.run(story)


def test_what_nobody_uses_for_a_week_is_dropped_by_itself(virtual: Any) -> None:
    async def story(world: Any) -> None:
        await carry(world, seeds=[SEED])
        world.now += 6 * DAY
        (one,) = await carry(world)
        assert one.idle == pytest.approx(6 * DAY)
        await carry(world, seeds=[replace(SEED, model="n")])
        world.now += 2 * DAY
        assert [one.model for one in await carry(world)] == ["n"]

    virtual.run(story)


def test_a_limit_that_is_searched_for_is_shown_as_not_found_yet(virtual: Any) -> None:
    async def story(simulation: Simulation) -> None:
        await simulation.run(5)
        (one,) = await put(simulation)
        assert (one.found, one.requests_per_min > 0) == (False, True)
        await simulation.run(90)
        (one,) = await put(simulation)
        assert one.found
        assert one.requests_per_min == pytest.approx(300, rel=0.1)

    simulate(virtual.url, Scenario({"rpm": 300, "retry_after": 1, "headers": "none"}, {"requests": 900}), story)
