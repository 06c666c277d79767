"""Limits that replies state hold for all workers where they are below the configured ones."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from models.request import StatedLimit
from tests.worker.limits.conftest import Toolbox, World
from worker.limits.learned import Ceiling, exchange
from worker.limits.limiter import Bucket, Grant, LimitedKey, Limiter, connect
from worker.stated import Stated

Story = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="session")
def toolbox(valkey_url: str) -> Toolbox:
    return Toolbox(valkey_url)


def key(learns: int = 1, **limits: int) -> LimitedKey:
    return replace(Toolbox.key("p/k", **limits), learns=learns)  # type: ignore[arg-type]


def minute(limit: float, unit: str = "requests", window: float | None = 60.0, **fields: Any) -> StatedLimit:
    return StatedLimit(unit, limit, window=window, **fields)  # type: ignore[arg-type]


async def learned(world: World, limiter: Limiter) -> dict[str, tuple[float, float]]:
    found: list[Ceiling] = await exchange(limiter._client, ["p/k"], now=world.now)
    return {one.model: (one.requests_per_min, one.tokens_per_min) for one in found}


async def taken_over(world: World, one: LimitedKey, *limits: StatedLimit) -> dict[str, tuple[float, float]]:
    limiter = await world.limiter()
    await Stated(limiter).take(one, "m", limits)
    return await learned(world, limiter)


async def granted(
    world: World, limiter: Limiter, one: LimitedKey, seconds: int, tokens: int = 1, model: str = "m"
) -> int:
    """Counts the calls that start in so many seconds, where many wait."""
    count = 0
    for _ in range(4 * seconds):
        wants = [world.want([one], model=model, tokens=tokens) for _ in range(16)]
        count += sum(isinstance(answer, Grant) for answer in await world.ask(limiter, *wants))
        world.now += 0.25
    return count


def test_a_stated_limit_holds_for_all_workers(toolbox: Toolbox) -> None:
    async def story(world: World) -> None:
        one = key(requests=6000)
        assert await taken_over(world, one, minute(60), minute(30_000, "tokens")) == {"m": (60.0, 30_000.0)}
        other = await world.limiter()
        assert 25 <= await granted(world, other, one, 30) <= 33

    toolbox.run(story)


def test_a_stated_rate_of_tokens_holds(toolbox: Toolbox) -> None:
    async def story(world: World) -> None:
        one = key(tokens=1_000_000)
        await taken_over(world, one, minute(60_000, "tokens"))
        assert 12 <= await granted(world, await world.limiter(), one, 30, tokens=2000) <= 17

    toolbox.run(story)


@pytest.mark.parametrize("unit", ["requests", "tokens"])
@pytest.mark.parametrize("stated", [600, 6000])
def test_what_is_not_below_the_configured_limit_is_left(toolbox: Toolbox, unit: str, stated: int) -> None:
    async def story(world: World) -> None:
        assert await taken_over(world, key(**{unit: 600}), minute(stated, unit)) == {}

    toolbox.run(story)


def test_a_limit_of_seconds_counts_by_its_window_and_the_smallest_holds(toolbox: Toolbox) -> None:
    async def story(world: World) -> None:
        found = await taken_over(world, key(requests=6000), minute(600), minute(5, window=1.0))
        assert found == {"m": (300.0, 0.0)}

    toolbox.run(story)


@pytest.mark.parametrize(
    "limit",
    [
        minute(50, window=86400),
        minute(50, window=3600),
        minute(50, window=None),
        minute(0),
        StatedLimit("requests", remaining=3, window=60),
        minute(8, "concurrent"),
    ],
)
def test_days_hours_and_what_is_unclear_are_left(toolbox: Toolbox, limit: StatedLimit) -> None:
    async def story(world: World) -> None:
        assert await taken_over(world, key(requests=6000), limit) == {}

    toolbox.run(story)


def test_a_limit_by_day_of_the_configuration_is_no_bound_for_a_rate(toolbox: Toolbox) -> None:
    async def story(world: World) -> None:
        one = replace(key(), buckets=(Bucket("p/k|day", "requests", 100, "UTC"),))
        assert await taken_over(world, one, minute(300)) == {"m": (300.0, 0.0)}

    toolbox.run(story)


def test_a_limit_of_the_account_holds_for_all_models(toolbox: Toolbox) -> None:
    async def story(world: World) -> None:
        one = key(requests=6000)
        assert await taken_over(world, one, minute(60, scope="account")) == {"": (60.0, 0.0)}
        limiter = await world.limiter()
        assert await granted(world, limiter, one, 15) + await granted(world, limiter, one, 15, model="n") <= 33

    toolbox.run(story)


def test_a_limit_that_the_vendor_changes_is_followed(toolbox: Toolbox) -> None:
    async def story(world: World) -> None:
        one, limiter = key(requests=6000), await world.limiter()
        stated = Stated(limiter)
        for limit in (60, 600, 60):
            await stated.take(one, "m", [minute(limit)])
            assert await learned(world, limiter) == {"m": (float(limit), 0.0)}

    toolbox.run(story)


def test_without_redis_the_reply_counts_and_the_next_one_is_taken_over(
    toolbox: Toolbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def story(world: World) -> None:
        limiter = await world.limiter()
        stated, one = Stated(limiter), key(requests=6000)
        there, limiter._client = limiter._client, connect("redis://127.0.0.1:1")
        try:
            await stated.take(one, "m", [minute(60)])
        finally:
            await limiter._client.aclose()
            limiter._client = there
        assert await learned(world, limiter) == {}
        await stated.take(one, "m", [minute(60)])
        assert await learned(world, limiter) == {"m": (60.0, 0.0)}

    toolbox.run(story)
    assert "stated limits were not taken over" in caplog.text
