"""What a 429 does: a lone one to its bucket, several to their pool."""

from __future__ import annotations

import pytest

from worker.limits.limiter import Grant, Wait


async def use(virtual, world, limiter, keys, seconds):
    await virtual.saturate(world, [virtual.Worker(world, limiter, lambda: world.want(keys))], seconds)


def test_a_lone_429_empties_the_bucket_but_cools_nothing(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        (first,) = await world.ask(limiter, world.want([one]))
        assert not await limiter.too_many(one, 2.0)
        (second,) = await world.ask(limiter, world.want([one]))
        assert isinstance(second, Grant)
        # Eight more would have been left of the burst; now each has to be earned.
        assert second.start_at - world.now == pytest.approx(60 / 600 / 0.985, abs=1e-3)

    virtual.run(story)


def test_three_429s_in_ten_seconds_cool_the_pool_for_every_limiter_and_every_key_of_it(virtual):
    async def story(world):
        pair = [virtual.key(f"p/k{n}", pool="acme", requests=600) for n in range(2)]
        other = virtual.key("q/k", requests=600)
        first, second = await world.limiter(), await world.limiter()
        await use(virtual, world, first, pair, 30)
        cooled = []
        for _ in range(3):
            cooled.append(await first.too_many(pair[0], 4.0))
            world.now += 0.5
        assert cooled[-1]
        (wait,) = await world.ask(second, world.want([pair[1]]))
        assert isinstance(wait, Wait)
        assert wait.reason == "cooling"
        (elsewhere,) = await world.ask(second, world.want([pair[1], other]))
        assert elsewhere.key == other
        assert (await second.room([pair[1]]))[0].cooling == pytest.approx(3.5)
        grant = await world.until_granted(second, world.want([pair[1]]))
        assert grant.start_at >= wait.seconds

    virtual.run(story)


def test_three_429s_over_a_longer_time_cool_nothing(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6_000)
        for _ in range(5):
            await use(virtual, world, limiter, [one], 12)
            assert not await limiter.too_many(one, 1.0)

    virtual.run(story)


def test_two_429s_cool_a_slow_pool_but_not_a_fast_one(virtual):
    async def story(world):
        limiter = await world.limiter()
        for limit, cools in [(120, True), (6_000, False)]:
            one = virtual.key(f"p/k{limit}", requests=limit)
            await use(virtual, world, limiter, [one], 12)
            assert not await limiter.too_many(one, 1.0)
            assert bool(await limiter.too_many(one, 1.0)) == cools

    virtual.run(story)


def test_stray_429s_of_one_in_a_thousand_do_not_stop_a_very_fast_pool(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=60_000)
        worker = virtual.Worker(world, limiter, lambda: world.want([one]), line=64)
        await virtual.saturate(world, [worker], 11)
        cooled = [await limiter.too_many(one, 1.0) for _ in range(10)]
        assert not any(cooled)

    virtual.run(story)


def test_a_long_retry_after_cools_at_once_and_is_kept(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        began = world.now
        assert await limiter.too_many(one, 20.0)
        assert await limiter.too_many(one, 6.0)
        assert await limiter.too_many(one, None)
        grant = await world.until_granted(limiter, world.want([one]))
        assert 20 <= grant.start_at - began <= 20.5

    virtual.run(story)


def test_a_pool_cools_for_longer_than_told_where_that_was_too_short(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        assert [await limiter.too_many(one, 0.5, least=8.0) for _ in range(3)][-1]
        assert (await limiter.room([one]))[0].cooling == pytest.approx(8.0)

    virtual.run(story)


def test_a_lone_429_without_a_retry_after_cools_nothing_however_long_it_would(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        assert not await limiter.too_many(one, None, least=9.0)
        (granted,) = await world.ask(limiter, world.want([one]))
        assert isinstance(granted, Grant)

    virtual.run(story)


def test_without_a_retry_after_a_pool_cools_for_a_jittered_second_or_two(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        times = set()
        for _ in range(5):
            assert [await limiter.too_many(one, None) for _ in range(3)][-1]
            times.add(round((await limiter.room([one]))[0].cooling, 6))
            world.now += 20
        assert all(1 <= seconds <= 2 for seconds in times)
        assert len(times) > 1

    virtual.run(story)
