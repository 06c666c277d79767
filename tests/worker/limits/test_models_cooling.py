"""A 429 concerns one model on one pool, until there is reason to think of more; long waits are bounded and end with one call."""

from __future__ import annotations

import random

import msgspec
import pytest

from worker.limits.limiter import Cooldown, Grant, Wait, believed

DAY = 86_400.0


async def start(world, limiter, key, model):
    """The answer to one want of this model."""
    (answer,) = await world.ask(limiter, world.want([key], model=model))
    return answer


def test_a_model_cools_by_itself_for_every_limiter_and_other_models_and_keys_go_on(virtual):
    async def story(world):
        one, other = virtual.key("p/k", requests=600), virtual.key("p/other", requests=600)
        first, second = await world.limiter(), await world.limiter()
        assert await first.too_many(one, 12.0, model="big") == [Cooldown("p/k", "big", 12.0)]
        wait = await start(world, second, one, "big")
        assert isinstance(wait, Wait)
        assert wait.reason == "model"
        assert isinstance(await start(world, second, one, "small"), Grant)
        assert isinstance(await start(world, second, other, "big"), Grant)
        (room,) = await second.room([one])
        assert (room.cooling, room.models) == (0, {"big": pytest.approx(12.0)})
        world.now += 12.1
        assert isinstance(await start(world, second, one, "big"), Grant)

    virtual.run(story)


def test_lone_429s_of_two_models_cool_nothing(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        for model in ("a", "b", "c"):
            assert await limiter.too_many(one, 2.0, model=model) == []
            world.now += 0.5
        for model in ("a", "b", "c"):
            assert isinstance(await start(world, limiter, one, model), Grant)

    virtual.run(story)


def test_a_second_model_refused_meanwhile_cools_the_pool_for_the_shorter_of_both_waits(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        await limiter.too_many(one, 40.0, model="a")
        world.now += 5
        assert await limiter.too_many(one, 10.0, model="b") == [Cooldown("p/k", "b", 10.0), Cooldown("p/k", "", 10.0)]
        assert (await start(world, limiter, one, "c")).reason == "cooling"
        world.now += 10.1
        assert isinstance(await start(world, limiter, one, "c"), Grant)
        assert (await start(world, limiter, one, "a")).reason == "model"

    virtual.run(story)


@pytest.mark.parametrize(("named", "answered"), [("", True), ("model", False)])
def test_a_second_model_says_nothing_of_the_pool_where_others_answer_or_the_provider_names_it(virtual, named, answered):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        for model in ("a", "b"):
            found = await limiter.too_many(one, 40.0, model=model, named=named, answered=answered)
            assert [cooldown.model for cooldown in found] == [model]
        assert isinstance(await start(world, limiter, one, "c"), Grant)

    virtual.run(story)


def test_a_provider_that_names_the_account_cools_the_whole_pool(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        assert await limiter.too_many(one, 40.0, model="a", named="pool") == [Cooldown("p/k", "", 40.0)]
        assert (await start(world, limiter, one, "b")).reason == "cooling"

    virtual.run(story)


def test_strays_are_counted_by_model(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6_000)
        worker = virtual.Worker(world, limiter, lambda: world.want([one], model="fast"))
        await virtual.saturate(world, [worker], 12)
        await start(world, limiter, one, "slow")
        assert not await limiter.too_many(one, 1.0, model="fast")
        assert not await limiter.too_many(one, 1.0, model="fast"), "two in a thousand"
        assert not await limiter.too_many(one, 1.0, model="slow")
        assert await limiter.too_many(one, 1.0, model="slow"), "two of three"

    virtual.run(story)


@pytest.mark.parametrize("seconds", [0.0, 5.0, 25 * 3600.0])
def test_a_wait_of_up_to_25_hours_is_believed(seconds):
    assert believed(seconds) == seconds


@pytest.mark.parametrize("seconds", [25 * 3600.0 + 1, 2.3e9, float("inf")])
def test_a_longer_one_counts_as_a_day(virtual, seconds):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        assert await limiter.too_many(one, seconds, model="m") == [Cooldown("p/k", "m", pytest.approx(DAY))]

    virtual.run(story)


def test_an_end_decades_ahead_that_stands_in_redis_is_brought_near(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        entries = {"m": [world.now + 70 * 365 * DAY, 0, 0], "": [world.now + 9 * DAY, 0, 0]}
        await limiter._client.set("{truckllm}:r:p/k", msgspec.msgpack.encode(entries))
        assert isinstance(await start(world, limiter, one, "m"), Wait)
        (room,) = await limiter.room([one])
        assert room.models["m"] == room.cooling == pytest.approx(DAY)
        world.now += DAY + 1
        assert isinstance(await start(world, limiter, one, "m"), Grant)

    virtual.run(story)


def test_what_an_earlier_version_left_in_redis_silences_nobody(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        await limiter._client.set("{truckllm}:c:p/k", str(world.now + 70 * 365 * DAY))
        assert isinstance(await start(world, limiter, one, "m"), Grant)

    virtual.run(story)


@pytest.mark.parametrize("named", ["", "pool"])
def test_after_a_long_wait_one_call_goes_and_the_next_after_its_time(virtual, named):
    async def story(world):
        one = virtual.key("p/k", requests=6_000)
        first, second = await world.limiter(), await world.limiter()
        (cooldown,) = await first.too_many(one, 60.0, model="m", named=named)
        world.now += 60.1
        answers = await world.ask(first, *[world.want([one], model="m") for _ in range(20)])
        assert [isinstance(answer, Grant) for answer in answers] == [True] + [False] * 19
        assert isinstance(await start(world, second, one, "m"), Wait)
        world.now += 11
        assert isinstance(await start(world, second, one, "m"), Grant), "nothing was heard of the first"
        assert isinstance(await start(world, second, one, "m"), Wait)
        assert await second.end_cooldown("p/k", cooldown.model)
        answers = await world.ask(first, *[world.want([one], model="m") for _ in range(20)])
        assert all(isinstance(answer, Grant) for answer in answers)

    virtual.run(story)


def test_a_cooldown_that_nobody_ends_is_over_after_six_trials(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6_000)
        await limiter.too_many(one, 60.0, model="m")
        world.now += 60.1
        for _ in range(6):
            answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(5)])
            assert [isinstance(answer, Grant) for answer in answers] == [True] + [False] * 4
            world.now += 11
        answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(5)])
        assert all(isinstance(answer, Grant) for answer in answers)
        await limiter.too_many(one, 60.0, model="m")
        world.now += 60.1
        answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(5)])
        assert [isinstance(answer, Grant) for answer in answers] == [True] + [False] * 4

    virtual.run(story)


def test_a_short_wait_needs_no_trial(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6_000)
        await limiter.too_many(one, 20.0, model="m")
        world.now += 20.1
        answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(5)])
        assert all(isinstance(answer, Grant) for answer in answers)

    virtual.run(story)


def test_a_cooldown_that_redis_lost_is_put_back_and_one_that_stands_stays(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=600)
        await limiter.cool_down([Cooldown("p/k", "m", 100.0), Cooldown("p/k", "over", -1.0)])
        await limiter.cool_down([Cooldown("p/k", "m", 5_000.0)])
        (room,) = await limiter.room([one])
        assert room.models == {"m": pytest.approx(100.0)}
        assert not await limiter.end_cooldown("p/k", "other")

    virtual.run(story)


def test_more_keys_than_one_command_takes_arguments_are_asked_for_at_once(virtual):
    async def story(world):
        keys = [virtual.key(f"p/k{n}", requests=60) for n in range(3_000)]
        (answer,) = await world.ask(await world.limiter(), world.want(keys, model="m"))
        assert isinstance(answer, Grant)

    virtual.run(story)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_refused_nothing_starts_before_its_time_and_nobody_else_waits(virtual, seed):
    async def story(world):
        rng = random.Random(seed)
        keys = [virtual.key(f"p/k{n}", requests=60_000) for n in range(2)]
        models = ["a", "b", "c"]
        limiters = [await world.limiter() for _ in range(2)]
        until: dict[tuple[str, str], float] = {}
        for _ in range(60):
            world.now += rng.uniform(0.0, 6.0)
            if rng.random() < 0.4:
                key, model = rng.choice(keys), rng.choice(models)
                found = await rng.choice(limiters).too_many(
                    key, rng.choice([None, 1.0, 7.0, 25.0]), 1.0, model=model, answered=rng.random() < 0.5
                )
                for one in found:
                    ends = world.now + one.seconds
                    until[one.pool, one.model] = max(until.get((one.pool, one.model), 0.0), ends)
            model, key = rng.choice(models), rng.choice(keys)
            end = max(until.get((key.pool, ""), 0.0), until.get((key.pool, model), 0.0))
            answer = await start(world, rng.choice(limiters), key, model)
            if end > world.now + 1.0:
                assert isinstance(answer, Wait), (model, key.name)
            else:
                assert isinstance(answer, Grant), (model, key.name)
                assert answer.start_at >= end - 1e-3

    virtual.run(story)
