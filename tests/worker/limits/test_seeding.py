"""Buckets a fresh Redis has never seen: they begin with what the ledger says of the last minute."""

from __future__ import annotations

import asyncio

import pytest

from worker.limits.limiter import Charge, Grant, Settlement, Wait, connect


class Ledger:
    """A seed function that counts how often it is asked."""

    def __init__(self, past=None, error: Exception | None = None) -> None:
        self.past, self.error, self.asked = past or {}, error, []

    async def __call__(self, ids):
        self.asked.append(sorted(ids))
        if self.error:
            raise self.error
        return {id_: self.past[id_] for id_ in ids if id_ in self.past}


def test_a_fresh_redis_knows_the_last_minute_from_the_ledger(virtual):
    async def story(world):
        one = virtual.key("p/k", requests=10)
        ledger = Ledger({"p/k|requests": [(n * 5.0, 1) for n in range(10)] + [(200.0, 1)]})
        limiter = await world.limiter(seed=ledger)
        (wait,) = await world.ask(limiter, world.want([one]))
        assert isinstance(wait, Wait)
        assert (await limiter.room([one]))[0].buckets[0].booked == 10
        began = world.now
        grant = await world.until_granted(limiter, world.want([one]))
        assert grant.start_at - began >= 15  # when the oldest of the ten is a minute old

    virtual.run(story)


def test_two_workers_on_a_fresh_redis_ask_the_ledger_once(virtual):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=600, tokens=60_000), Ledger()
        limiters = [await world.limiter(seed=ledger) for _ in range(4)]
        for _ in range(2):
            await asyncio.gather(*[world.ask(limiter, world.want([one], tokens=1)) for limiter in limiters])
        assert ledger.asked == [["p/k|requests", "p/k|tokens"]]
        assert len(world.granted) >= 5

    virtual.run(story)


def test_nothing_is_granted_on_a_bucket_while_another_worker_seeds_it(virtual):
    async def story(world):
        one = virtual.key("p/k", requests=600)
        telling, told = asyncio.Event(), asyncio.Event()

        async def slow(ids):
            telling.set()
            await told.wait()
            return {}

        first, second = await world.limiter(seed=slow), await world.limiter(seed=Ledger())
        asking = asyncio.create_task(world.ask(first, world.want([one])))
        await telling.wait()
        (wait,) = await world.ask(second, world.want([one]))
        assert isinstance(wait, Wait)
        assert wait.seconds < 1
        told.set()
        (grant,) = await asking
        assert isinstance(grant, Grant)

    virtual.run(story)


def test_one_that_was_stopped_while_it_told_takes_nothing_back_that_another_has_told(virtual):
    async def story(world):
        one, client = virtual.key("p/k", requests=600), connect(world.url)
        second = await world.limiter(seed=Ledger({"p/k|requests": [(1.0, 7)]}))

        async def stopped(ids):
            await client.delete("{truckllm}:l:seed")  # the lock has run out
            await world.until_granted(second, world.want([one]))
            return {"p/k|requests": [(1.0, 5)]}

        first = await world.limiter(seed=stopped)
        await world.until_granted(first, world.want([one]))
        assert (await first.room([one]))[0].buckets[0].booked == 7 + 2
        await client.aclose()

    virtual.run(story)


def test_nothing_starts_while_the_ledger_fails_until_a_minute_without_a_start_is_over(virtual, caplog):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=600), Ledger(error=RuntimeError("password=hunter2"))
        limiter = await world.limiter(seed=ledger)
        began = world.now
        grant = await world.until_granted(limiter, world.want([one]))
        assert grant.start_at - began > 60
        asked = len(ledger.asked)
        (again,) = await world.ask(limiter, world.want([one]))
        assert isinstance(again, Grant)
        assert len(ledger.asked) == asked

    virtual.run(story)
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_ledger_that_tells_again_is_believed_at_once(virtual):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=10), Ledger({"p/k|requests": [(1.0, 4)]}, error=RuntimeError("away"))
        limiter = await world.limiter(seed=ledger)
        assert isinstance((await world.ask(limiter, world.want([one])))[0], Wait)
        ledger.error = None
        await world.ask(limiter, world.want([one]))
        assert (await limiter.room([one]))[0].buckets[0].booked == 4

    virtual.run(story)


async def restart(world) -> None:
    """The server is another one now, with all that this one held: as one that was read back from its file."""
    client = connect(world.url)
    await client.set("{truckllm}:run", "another")
    await client.aclose()


def test_what_a_restarted_redis_has_kept_is_not_believed_but_the_ledger_asked_again(virtual):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=10), Ledger({"p/k|requests": [(2.0, 3)]})
        limiter = await world.limiter(seed=ledger)
        await world.ask(limiter, world.want([one]))
        await restart(world)
        ledger.past = {"p/k|requests": [(1.0, 9)]}
        grant = await world.until_granted(limiter, world.want([one]))
        assert ledger.asked == [["p/k|requests"]] * 2
        (room,) = await limiter.room([one])
        assert room.buckets[0].booked == 9 + 1
        assert grant.start_at - world.now <= 1

    virtual.run(story)


def test_after_a_restart_the_ledger_is_asked_only_once_all_granted_calls_are_in_it(virtual):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=600), Ledger()
        limiters = [await world.limiter(seed=ledger) for _ in range(2)]
        for limiter in limiters:
            await world.ask(limiter, world.want([one]))
        asked = len(ledger.asked)
        await restart(world)
        for limiter in limiters:
            assert isinstance((await world.ask(limiter, world.want([one])))[0], Wait)
        world.now += 1.2
        assert isinstance((await world.ask(limiters[0], world.want([one])))[0], Wait)
        assert len(ledger.asked) == asked
        world.now += 0.2
        assert isinstance((await world.ask(limiters[0], world.want([one])))[0], Grant)
        assert len(ledger.asked) == asked + 1

    virtual.run(story)


def others(*names):
    async def tell():
        return set(names)

    return tell


def test_a_new_worker_waits_for_the_grants_of_one_that_lived_before_the_server(virtual):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=600), Ledger()
        old = await world.limiter(seed=ledger, others=others())
        await old.meet("0")
        client = connect(world.url)
        await client.set("{truckllm}:run", "earlier")
        await old.meet("1")
        await world.ask(old, world.want([one]))
        await client.flushall()
        new = await world.limiter(seed=ledger, others=others("1"))
        await new.meet("2")
        # what the old one was granted a second ahead isn't in the ledger yet
        asked, began = len(ledger.asked), world.now
        grant = await world.until_granted(new, world.want([one]))
        assert 1.3 <= world.now - began < 1.8
        assert grant.start_at >= began + 1.3
        assert len(ledger.asked) == asked + 1
        # later on nobody waits: not for other buckets, and a third one not for the old, which has met the new server by then
        await world.until_granted(old, world.want([one]))
        another = virtual.key("p/l", requests=600)
        assert isinstance((await world.ask(new, world.want([another])))[0], Grant)
        world.now += 2
        last = virtual.key("p/m", requests=600)
        await world.until_granted(old, world.want([last]))
        third = await world.limiter(seed=ledger, others=others("1", "2"))
        await third.meet("3")
        (grant,) = await world.ask(third, world.want([virtual.key("p/n", requests=600)]))
        assert isinstance(grant, Grant)
        await client.aclose()

    virtual.run(story)


@pytest.mark.parametrize("lost", ["nothing but the run", "everything"])
def test_a_new_worker_waits_for_the_one_of_several_that_has_not_met_the_server(virtual, lost):
    async def story(world):
        client = connect(world.url)
        for name in ("1", "2"):
            old = await world.limiter(seed=Ledger(), others=others())
            await old.meet(name)
        if lost == "everything":
            await client.flushall()
        await client.set("{truckllm}:run", "another")
        await old.meet("2")
        new = await world.limiter(seed=Ledger(), others=others("1", "2"))
        await new._client.ping()  # tells the run of a server that all of this is
        await client.set("{truckllm}:run", "another")
        await new.meet("3")
        began = world.now
        await world.until_granted(new, world.want([virtual.key("p/k", requests=600)]))
        assert 1.3 <= world.now - began < 1.8
        await client.aclose()

    virtual.run(story)


def test_while_earlier_limits_may_have_granted_what_the_ledger_does_not_know_nothing_begins(virtual):
    async def story(world):
        client, ledger = connect(world.url), Ledger()
        limiter, one = await world.limiter(seed=ledger), virtual.key("p/k", requests=600)
        await client.set("{truckllm}:limits-changed", "", px=60_000)
        for _ in range(3):
            (wait,) = await world.ask(limiter, world.want([one]))
            assert isinstance(wait, Wait)
            world.now += 1
        assert not ledger.asked
        await client.delete("{truckllm}:limits-changed")
        (grant,) = await world.ask(limiter, world.want([one]))
        assert isinstance(grant, Grant)
        await client.aclose()

    virtual.run(story)


@pytest.mark.parametrize("finder", ["the one that holds them", "another", "a new one"])
def test_an_emptied_redis_of_the_same_run_begins_with_the_calls_that_somebody_held(virtual, finder):
    async def story(world):
        one = virtual.key("p/k", requests=60)

        async def ledger(ids):
            told = [grant.start_at for grant in world.granted if grant.start_at - 0.2 <= world.now]
            return {id_: [(max(0.0, world.now - start), 1) for start in told] for id_ in ids}

        client, limiters = connect(world.url), []
        for name, other in (("1", "2"), ("2", "1")):
            # ten times too fast: the ring alone keeps the limit
            limiters.append(await world.limiter(seed=ledger, others=others(other), pace=10.0))
            await limiters[-1].meet(name)
        for limiter in limiters:
            await world.until_granted(limiter, world.want([one]))
        world.now += 61
        answers = await world.ask(limiters[0], *[world.want([one]) for _ in range(30)])
        assert sum(isinstance(answer, Grant) and answer.start_at > world.now + 0.3 for answer in answers) > 5
        run = await client.get("{truckllm}:run")
        await client.flushall()
        await client.set("{truckllm}:run", run)  # by whoever connects next
        if finder == "a new one":
            limiters.append(await world.limiter(seed=ledger, others=others("1", "2"), pace=10.0))
            await limiters[-1].meet("3")
        first = {"the one that holds them": 0, "another": 1, "a new one": 2}[finder]
        order = limiters[first:] + limiters[:first]
        emptied = world.now
        while world.now < emptied + 10:
            for limiter in order:
                await world.ask(limiter, *[world.want([one]) for _ in range(30)])
            world.now += 0.25
        window = virtual.Window()
        for grant in world.granted:
            window.add(grant.start_at, 1)
        assert 58 <= window.worst() <= 60
        await client.aclose()

    virtual.run(story)


def test_workers_that_start_together_on_a_new_server_wait_for_nobody(virtual):
    async def story(world):
        names = ("1", "2", "3")
        limiters = [await world.limiter(seed=Ledger(), others=others(*{*names} - {name})) for name in names]
        for limiter, name in zip(limiters, names, strict=True):
            await limiter.meet(name)
        for number, limiter in enumerate(limiters):
            (grant,) = await world.ask(limiter, world.want([virtual.key(f"p/k{number}", requests=600)]))
            assert isinstance(grant, Grant)

    virtual.run(story)


def test_a_server_that_does_not_tell_its_runs_is_never_begun_at_once(virtual):
    async def story(world):
        one, ledger = virtual.key("p/k", requests=600), Ledger()
        limiter = await world.limiter(seed=ledger, others=others())
        await limiter.meet("1")
        client = connect(world.url)
        for _ in range(2):
            await client.flushall()  # also the run that its connection had told
            began = world.now
            await world.until_granted(limiter, world.want([one]))
            assert 1.3 <= world.now - began < 3
            world.now += 60
        await client.aclose()

    virtual.run(story)


def test_who_else_is_at_work_being_unknown_counts_as_somebody(virtual):
    async def story(world):
        async def away():
            raise RuntimeError("away")

        limiter = await world.limiter(seed=Ledger(), others=away)
        await limiter.meet("1")
        began = world.now
        await world.until_granted(limiter, world.want([virtual.key("p/k", requests=600)]))
        assert 1.3 <= world.now - began < 1.8

    virtual.run(story)


@pytest.mark.parametrize("emptied", ["by a restart", "while it ran"])
def test_a_pool_that_cools_still_cools_on_a_server_that_lost_its_data(virtual, emptied):
    async def story(world):
        one = virtual.key("p/k", requests=600)
        limiter, client = await world.limiter(seed=Ledger()), connect(world.url)
        await limiter.meet("1")
        await world.ask(limiter, world.want([one]))
        assert await limiter.too_many(one, 30)
        run = await client.get("{truckllm}:run")
        await client.flushall()
        await client.set("{truckllm}:run", "another" if emptied == "by a restart" else run)
        world.now += 10
        grant = await world.until_granted(limiter, world.want([one]))
        assert grant.start_at >= 1_000_000.25 + 30
        assert (await limiter.room([one]))[0].cooling <= 1
        await client.aclose()

    virtual.run(story)


def test_a_key_that_is_never_used_costs_no_question_after_the_first(virtual):
    async def story(world):
        ledger = Ledger()
        cheap, spare = virtual.key("p/cheap", requests=6_000), virtual.key("p/spare", rank=9, requests=6_000)
        limiter = await world.limiter(seed=ledger)
        for _ in range(30):
            await world.ask(limiter, world.want([cheap, spare]))
            world.now += 60
        assert len(ledger.asked) == 1

    virtual.run(story)


def test_what_was_granted_before_a_restart_is_not_settled_into_what_the_ledger_told(virtual):
    async def story(world):
        one = virtual.key("p/k", tokens=60_000)
        limiter = await world.limiter(seed=Ledger({"p/k|tokens": [(3.0, 500)]}))
        before = int(world.now / 0.5) - 6  # the slot of three seconds ago
        await world.ask(limiter, world.want([one], tokens=100))
        await limiter.settle([Settlement(one.buckets, before, Charge(1, 500), Charge(1, 5))])
        assert (await limiter.room([one]))[0].buckets[0].booked == 600

    virtual.run(story)
