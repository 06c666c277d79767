"""Which key a call gets, and which it never gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.limits.limiter import Grant, LimitedKey, Wait


def test_the_cheapest_key_goes_first_and_the_next_one_takes_over_when_it_is_full(virtual):
    async def story(world):
        cheap, dear = virtual.key("p/cheap", rank=1, requests=60), virtual.key("p/dear", rank=7, requests=600)
        limiter = await world.limiter()
        answers = await world.ask(limiter, *[world.want([dear, cheap]) for _ in range(4)])
        assert [answer.key.name for answer in answers] == ["p/cheap", "p/dear", "p/dear", "p/dear"]

    virtual.run(story)


def test_a_dearer_key_is_left_alone_while_the_cheap_one_can_go_within_the_second(virtual):
    async def story(world):
        cheap, dear = virtual.key("p/cheap", rank=1, requests=600), virtual.key("p/dear", rank=7, requests=600)
        answers = await world.ask(await world.limiter(), *[world.want([dear, cheap]) for _ in range(10)])
        assert [answer.key for answer in answers] == [cheap] * 10
        assert answers[-1].start_at > world.now + 0.5

    virtual.run(story)


def test_equal_keys_share_by_the_room_they_have(virtual):
    async def story(world):
        small, large = virtual.key("p/small", requests=600), virtual.key("p/large", requests=1_800)
        workers = [virtual.Worker(world, await world.limiter(), lambda: world.want([small, large]), line=2)]
        for _ in range(40):  # far below the limits of both
            await workers[0].turn()
            world.now += 0.5
        taken = [grant.key.name for grant in world.granted]
        assert 0.2 <= taken.count("p/small") / len(taken) <= 0.3

    virtual.run(story)


def test_all_keys_are_used_at_once_when_work_abounds(virtual):
    async def story(world):
        keys = [virtual.key(f"p/k{n}", requests=120 * (n + 1), tokens=1_000_000) for n in range(3)]
        workers = [virtual.Worker(world, await world.limiter(), lambda: world.want(keys, tokens=50)) for _ in range(2)]
        await virtual.saturate(world, workers, 300)
        for one in keys:
            used = sum(grant.key == one for grant in world.granted)
            assert used >= 0.98 * one.buckets[0].limit * 5

    virtual.run(story)


def test_a_key_without_limits_grants_at_once(virtual):
    async def story(world):
        free = virtual.key("p/free")
        answers = await world.ask(await world.limiter(), *[world.want([free], tokens=10**9) for _ in range(64)])
        assert all(isinstance(answer, Grant) and answer.start_at == world.now for answer in answers)

    virtual.run(story)


def test_every_bucket_of_a_key_must_admit(virtual):
    async def story(world):
        one = virtual.key("p/k", requests=6_000, input_tokens=6_000, output_tokens=60)
        limiter = await world.limiter()
        answers = await world.ask(limiter, *[world.want([one], input_tokens=1, output_tokens=1) for _ in range(3)])
        assert [isinstance(answer, Grant) for answer in answers] == [True, False, False]
        (only_input,) = await world.ask(limiter, world.want([one], input_tokens=5, output_tokens=0))
        assert isinstance(only_input, Grant)

    virtual.run(story)


@pytest.mark.parametrize("name", ["p/bad", "bad-pool"])
def test_a_blocked_key_or_pool_is_skipped_by_every_limiter_until_it_is_unblocked(virtual, name):
    async def story(world):
        bad, good = (
            virtual.key("p/bad", pool="bad-pool", requests=600),
            virtual.key("p/good", rank=5, requests=600),
        )
        first, second = await world.limiter(), await world.limiter()
        await first.block(name, None)
        for limiter in (first, second):
            (answer,) = await world.ask(limiter, world.want([bad, good]))
            assert answer.key == good
            (blocked,) = await world.ask(limiter, world.want([bad]))
            assert isinstance(blocked, Wait)
            assert blocked.reason == "blocked"
        assert (await second.room([bad]))[0].blocked == float("inf")
        await second.unblock(name)
        (answer,) = await world.ask(first, world.want([bad, good]))
        assert answer.key == bad

    virtual.run(story)


def test_a_block_is_for_one_secret(virtual):
    async def story(world):
        old, new = (replace(virtual.key("p/k", requests=600), mark=mark) for mark in ("old", "new"))
        limiter = await world.limiter()
        await limiter.block(old.lock, None)
        (blocked,) = await world.ask(limiter, world.want([old]))
        assert blocked.reason == "blocked"
        (granted,) = await world.ask(limiter, world.want([new]))
        assert isinstance(granted, Grant)

    virtual.run(story)


def test_a_block_with_an_end_ends(virtual):
    async def story(world):
        one = virtual.key("p/k", requests=600)
        limiter = await world.limiter()
        await limiter.block("p/k", 30)
        assert (await limiter.room([one]))[0].blocked == pytest.approx(30)
        world.now += 29
        (wait,) = await world.ask(limiter, world.want([one]))
        assert isinstance(wait, Wait)
        world.now += 1.1
        (grant,) = await world.ask(limiter, world.want([one]))
        assert isinstance(grant, Grant)

    virtual.run(story)


def test_keys_of_two_providers_may_share_one_bucket(virtual):
    async def story(world):
        one = virtual.key("openai/k", pool="acme", requests=60)
        other = LimitedKey("azure/k", "acme", one.buckets, 0)
        limiter = await world.limiter()
        first, second = await world.ask(limiter, world.want([one]), world.want([other]))
        assert isinstance(first, Grant)
        assert isinstance(second, Wait)

    virtual.run(story)


def test_a_limit_that_changes_counts_from_the_next_call(virtual):
    async def story(world):
        limiter = await world.limiter()
        (grant,) = await world.ask(limiter, world.want([virtual.key("p/k", requests=1)]))
        assert isinstance(grant, Grant)
        world.now += 1
        (wait,) = await world.ask(limiter, world.want([virtual.key("p/k", requests=1)]))
        assert isinstance(wait, Wait)
        (grant,) = await world.ask(limiter, world.want([virtual.key("p/k", requests=600)]))
        assert isinstance(grant, Grant)

    virtual.run(story)


def test_more_than_64_wants_or_a_want_without_keys_is_a_mistake_of_the_caller(virtual):
    async def story(world):
        limiter, one = await world.limiter(), virtual.key("p/k", requests=6)
        with pytest.raises(ValueError, match="65 wants"):
            await limiter.reserve([world.want([one]) for _ in range(65)])
        with pytest.raises(ValueError, match="no key"):
            await limiter.reserve([world.want([])])
        assert await limiter.reserve([]) == []

    virtual.run(story)


def test_a_provider_may_have_more_keys_than_a_script_takes_arguments(virtual):
    async def story(world):
        keys = [virtual.key(f"p/k{n}", requests=60) for n in range(3_000)]
        limiter = await world.limiter()
        answers = await world.ask(limiter, *[world.want(keys) for _ in range(64)])
        assert {type(answer) for answer in answers} == {Grant}
        assert len({answer.key.name for answer in answers}) == 64
        assert len(await limiter.room(keys)) == 3_000
        await limiter.drop_hold("w1", keys)

    virtual.run(story)
