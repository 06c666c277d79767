"""Calls too big for the moment: they get their turn, and nobody waits for one that has gone away."""

from __future__ import annotations

import random

import pytest

from worker.limits.limiter import Grant, TooLarge, Wait


async def fill(virtual, world, keys, *, tokens: int, seconds: float, workers: int = 2) -> list:
    """Saturates `keys` with small jobs, and hands back the workers to go on with."""
    made = [
        virtual.Worker(world, await world.limiter(), lambda: world.want(keys, tokens=tokens)) for _ in range(workers)
    ]
    await virtual.saturate(world, made, seconds)
    return made


async def push_through(virtual, world, limiter, big, workers, *, patience: float) -> Grant:
    """Lets `big` ask among saturating workers until it is granted."""
    deadline, ask_at = world.now + patience, world.now
    while ask_at < deadline:
        if (gap := ask_at - world.now) > 0:
            await virtual.saturate(world, workers, gap)
        (answer,) = await world.ask(limiter, big)
        if isinstance(answer, Grant):
            return answer
        ask_at = world.now + answer.seconds
    raise AssertionError(f"not admitted in {patience} s")


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1, 0.5, 1.0])
def test_a_big_job_is_admitted_under_saturation_in_about_the_time_its_tokens_take(virtual, share):
    async def story(world):
        one = virtual.key("p/k", requests=100_000, tokens=60_000)
        workers = await fill(virtual, world, [one], tokens=100, seconds=70)
        began = world.now
        limiter = await world.limiter()
        grant = await push_through(
            virtual, world, limiter, world.want([one], tokens=int(60_000 * share)), workers, patience=90
        )
        ideal = 60 * share / 0.985
        assert grant.start_at - began <= ideal + 3.0
        window = virtual.Window()
        for each in world.granted:
            window.add(each.start_at, each.charge.tokens)
        assert window.worst() <= 60_000
        # No second debt: small jobs go on right after it, unless it took the whole minute.
        before = len(world.granted)
        world.now = grant.start_at
        await virtual.saturate(world, workers, 2.0)
        assert share == 1.0 or len(world.granted) > before

    virtual.run(story)


def test_several_big_jobs_of_two_workers_all_get_their_turn(virtual):
    async def story(world):
        one = virtual.key("p/k", requests=1_000, tokens=60_000)
        workers = await fill(virtual, world, [one], tokens=300, seconds=61)
        bigs = [world.want([one], tokens=6_000) for _ in range(6)]
        for n, worker in enumerate(workers):
            worker.wants = bigs[n::2] + worker.wants
        began = world.now
        await virtual.saturate(world, workers, 60)
        ids = {want.id for want in bigs}
        starts = [grant.start_at - began for grant in world.granted if grant.want_id in ids]
        assert len(starts) == 6
        assert max(starts) <= 6 * 6.1 + 5

    virtual.run(story)


@pytest.mark.parametrize("together", [False, True], ids=["two workers", "two providers of one worker"])
def test_a_worker_with_big_jobs_only_and_one_with_small_jobs_only_share_a_bucket(virtual, together):
    async def story(world):
        here = virtual.key("p/k", pool="acme", tokens=60_000)
        there = type(here)("q/k", here.pool, here.buckets, 0)
        first = await world.limiter()
        second = first if together else await world.limiter()
        workers = [
            virtual.Worker(world, first, lambda: world.want([here], tokens=4_000)),
            virtual.Worker(world, second, lambda: world.want([there], tokens=100)),
        ]
        await virtual.saturate(world, workers, 240)
        big = sum(grant.charge.tokens for grant in world.granted if grant.key == here)
        small = sum(grant.charge.tokens for grant in world.granted if grant.key == there)
        assert big >= 0.2 * 240_000
        assert small >= 0.05 * 240_000
        assert big + small >= 0.9 * 240_000

    virtual.run(story)


def test_a_vanished_holder_frees_its_bucket_after_two_seconds(virtual):
    async def story(world):
        one = virtual.key("p/k", requests=1_000, tokens=60_000)
        first, second = await world.limiter(), await world.limiter()
        (wait,) = await world.ask(first, world.want([one], tokens=30_000))
        assert isinstance(wait, Wait)
        assert wait.held
        small = world.want([one], tokens=10)
        (refused,) = await world.ask(second, small)
        assert isinstance(refused, Wait)
        assert not refused.held
        gone = world.now
        grant = await world.until_granted(second, small)
        assert grant.start_at - gone <= 2 + 1.5 * 1.2
        # What had been saved for it is not handed out as a burst.
        world.now = gone + 30
        answers = await world.ask(second, *[world.want([one], tokens=100) for _ in range(64)])
        at_once = [answer for answer in answers if isinstance(answer, Grant) and answer.start_at <= world.now]
        assert sum(grant.charge.tokens for grant in at_once) <= 900

    virtual.run(story)


def test_a_dropped_hold_frees_its_bucket_at_once(virtual):
    async def story(world):
        one = virtual.key("p/k", tokens=60_000)
        limiter = await world.limiter()
        big = world.want([one], tokens=30_000)
        await world.ask(limiter, big)
        (refused,) = await world.ask(limiter, world.want([one], tokens=10))
        assert isinstance(refused, Wait)
        await limiter.drop_hold("somebody else's", [one])
        (refused,) = await world.ask(limiter, world.want([one], tokens=10))
        assert isinstance(refused, Wait)
        await limiter.drop_hold(big.id, [one])
        (granted,) = await world.ask(limiter, world.want([one], tokens=10))
        assert isinstance(granted, Grant)

    virtual.run(story)


async def kept_out(virtual, world, key):
    """Three limiters: the first holds the key for a big call, the second was kept out, and is next."""
    limiters = [await world.limiter() for _ in range(3)]
    big = world.want([key], tokens=30_000)
    (held,) = await world.ask(limiters[0], big)
    assert held.held
    (refused,) = await world.ask(limiters[1], world.want([key], tokens=10))
    assert isinstance(refused, Wait)
    return limiters, big


def test_a_turn_is_for_the_one_that_was_kept_out_and_ends_with_its_question(virtual):
    async def story(world):
        one = virtual.key("p/k", tokens=60_000)
        (first, second, third), big = await kept_out(virtual, world, one)
        await first.drop_hold(big.id, [one])
        small = world.want([one], tokens=10)
        (refused,) = await world.ask(third, small)
        assert isinstance(refused, Wait)
        (granted,) = await world.ask(second, world.want([one], tokens=10))
        assert isinstance(granted, Grant)
        (granted,) = await world.ask(third, small)
        assert isinstance(granted, Grant)

    virtual.run(story)


def test_a_turn_of_one_that_has_gone_away_is_over_after_two_seconds(virtual):
    async def story(world):
        one = virtual.key("p/k", tokens=60_000)
        (first, _, third), big = await kept_out(virtual, world, one)
        await first.drop_hold(big.id, [one])
        began = world.now
        grant = await world.until_granted(third, world.want([one], tokens=10))
        assert 1 < grant.start_at - began <= 2 + 1.2

    virtual.run(story)


def test_one_that_has_gone_away_gets_no_turn(virtual):
    async def story(world):
        one = virtual.key("p/k", tokens=60_000)
        (first, _, third), big = await kept_out(virtual, world, one)
        small = world.want([one], tokens=10)
        for _ in range(4):
            world.now += 1
            await world.ask(first, big)
        await world.ask(third, small)
        await first.drop_hold(big.id, [one])
        (granted,) = await world.ask(third, small)
        assert isinstance(granted, Grant)

    virtual.run(story)


def test_a_hold_from_before_the_clock_was_set_back_keeps_nobody_out(virtual):
    async def story(world):
        one = virtual.key("p/k", tokens=60_000)
        (_, second, third), _ = await kept_out(virtual, world, one)
        world.step = -3600
        for limiter in (third, second):
            began = world.now
            grant = await world.until_granted(limiter, world.want([one], tokens=10))
            assert grant.start_at - began <= 2 + 1.2

    virtual.run(story)


def test_others_of_the_same_call_use_other_keys_while_one_is_held(virtual):
    async def story(world):
        cheap, dear = virtual.key("p/cheap", tokens=60_000), virtual.key("p/dear", rank=1, tokens=20_000)
        limiter = await world.limiter()
        big, small = world.want([cheap, dear], tokens=30_000), world.want([cheap, dear], tokens=100)
        held, granted = await world.ask(limiter, big, small)
        assert isinstance(held, Wait)
        assert held.held
        assert isinstance(granted, Grant)
        assert granted.key == dear

    virtual.run(story)


def test_a_holder_that_goes_on_another_key_lets_go_of_the_first(virtual):
    async def story(world):
        one, other = virtual.key("p/one", tokens=60_000), virtual.key("p/other", tokens=60_000)
        limiter = await world.limiter()
        await limiter.block(other.name, None)
        big = world.want([one, other], tokens=1_300)
        world_before = await world.ask(limiter, world.want([one], tokens=900), big)
        assert isinstance(world_before[1], Wait)
        assert world_before[1].held
        await limiter.unblock(other.name)
        granted, small = await world.ask(limiter, big, world.want([one], tokens=10))
        assert isinstance(granted, Grant)
        assert granted.key == other
        assert isinstance(small, Grant)

    virtual.run(story)


def test_holders_of_overlapping_buckets_never_wait_for_each_other(virtual):
    async def story(world):
        dice = random.Random(3)
        shared = virtual.key("p/all", pool="all", tokens=60_000).buckets
        parts = [virtual.key(f"p/m{n}", pool=f"m{n}", input_tokens=30_000) for n in range(3)]
        keys = [type(part)(part.name, part.pool, part.buckets + shared, 0) for part in parts]

        def make():
            size = dice.choice([2_000, 5_000, 12_000])
            return world.want([dice.choice(keys)], tokens=size, input_tokens=size)

        workers = [virtual.Worker(world, await world.limiter(), make, line=6) for _ in range(3)]
        await virtual.saturate(world, workers, 300)
        window = virtual.Window()
        for grant in world.granted:
            window.add(grant.start_at, grant.charge.tokens)
        assert window.worst() <= 60_000
        assert sum(grant.charge.tokens for grant in world.granted) >= 0.8 * 5 * 60_000

    virtual.run(story)


def test_one_that_is_kept_out_of_a_bucket_takes_no_further_hold(virtual):
    async def story(world):
        slow, shared = virtual.key("p/slow", input_tokens=30_000), virtual.key("p/shared", tokens=60_000)
        third = virtual.key("p/third", output_tokens=60_000)
        every = type(slow)("p/every", "every", slow.buckets + shared.buckets + third.buckets, 0)
        limiter, other = await world.limiter(), await world.limiter()
        big = world.want([every], input_tokens=5_000, tokens=100, output_tokens=3_000)
        for pause in (1.5, 1.5, 1.5, 1.5, 0.1):  # only the slow bucket delays it by more than two seconds
            (wait,) = await world.ask(limiter, big)
            assert wait.held
            world.now += pause
        (holds,) = await world.ask(other, world.want([shared], tokens=2_000))
        assert holds.held
        world.now += 0.8
        await world.ask(limiter, big)  # now the third delays it as much
        (grant,) = await world.ask(other, world.want([third], output_tokens=10))
        assert isinstance(grant, Grant)

    virtual.run(story)


def test_behind_small_ones_that_wait_a_big_one_takes_its_hold(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", tokens=60_000)
        *small, big = await world.ask(
            limiter, *[world.want([one], tokens=100) for _ in range(30)], world.want([one], tokens=5_000)
        )
        assert isinstance(small[-1], Wait)
        assert not small[-1].held
        assert big.held

    virtual.run(story)


def test_the_next_big_one_of_a_worker_takes_over_in_the_call_in_which_the_first_goes(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", tokens=60_000)
        first, second = world.want([one], tokens=3_000), world.want([one], tokens=5_000)
        (wait,) = await world.ask(limiter, first)
        assert wait.held
        world.now += 1.9
        taken_over, gone = await world.ask(limiter, second, first)
        assert isinstance(gone, Grant)
        assert taken_over.held

    virtual.run(story)


def test_a_job_over_a_whole_minute_on_every_key_is_too_large(virtual):
    async def story(world):
        keys = [virtual.key("p/a", requests=10, tokens=1_000), virtual.key("p/b", requests=10, tokens=5_000)]
        limiter = await world.limiter()
        too_large, fits_one = await world.ask(
            limiter, world.want(keys, tokens=5_001), world.want(keys, tokens=4_000, requests=1)
        )
        assert too_large == TooLarge(too_large.want_id, "tokens", 5_001, 5_000)
        assert isinstance(fits_one, Wait)
        grant = await world.until_granted(limiter, world.want(keys, tokens=4_000))
        assert grant.key == keys[1]

    virtual.run(story)
