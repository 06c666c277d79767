"""The breaker on a real server: when it opens, whom it lets through, when it closes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.breaker import Breaker
from worker.limits.limiter import connect


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def story(valkey_url: str) -> Callable[..., None]:
    """Runs a story of two workers' breakers, whose clock it is given, on an emptied server."""

    def run(tell: Callable[[Clock, Breaker, Breaker], Awaitable[None]], **options: float) -> None:
        async def main() -> None:
            clients = [connect(valkey_url) for _ in range(2)]
            await clients[0].flushall()
            clock = Clock()
            breakers = [Breaker(client, server_time=clock, rng=random.Random(1), **options) for client in clients]  # type: ignore[arg-type]
            try:
                await tell(clock, *breakers)
            finally:
                for client in clients:
                    await client.aclose()

        asyncio.run(main())

    return run


async def open_it(breaker: Breaker) -> None:
    assert await breaker.record("p", 0, 5) == "open"


def test_a_closed_breaker_lets_all_through(story):
    async def tell(clock, one, other):
        assert await one.admit("p", 64) == (64, 0.0)

    story(tell)


def test_it_opens_for_all_workers_at_five_bad_calls_that_are_half_of_all(story):
    async def tell(clock, one, other):
        assert await one.record("p", 4, 2) == "closed"
        clock.now += 3
        assert await other.record("p", 1, 2) == "closed"
        assert await other.record("p", 0, 1) == "open"
        allowed, wait = await one.admit("p", 10)
        assert allowed == 0
        assert 5 <= wait <= 6
        assert await one.admit("q", 10) == (10, 0.0)

    story(tell)


def test_four_bad_calls_or_less_than_half_do_not_open_it(story):
    async def tell(clock, one, other):
        assert await one.record("p", 0, 4) == "closed"
        assert await one.record("q", 101, 100) == "closed"

    story(tell)


def test_a_fast_provider_that_is_gone_opens_it_at_once_whatever_it_answered_before(story):
    async def tell(clock, one, other):
        assert await one.record("p", 900, 0) == "closed"
        clock.now += 2
        assert await other.record("p", 0, 4) == "closed"
        assert await one.record("p", 0, 1) == "open"
        assert await one.record("q", 900, 0) == "closed"
        clock.now += 2
        assert await other.record("q", 5, 20) == "closed", "it still answers some"

    story(tell)


def test_each_worker_knows_how_the_breaker_stood_when_it_last_heard_of_it(story):
    async def tell(clock, one, other):
        assert not one.shut("p")
        await open_it(one)
        assert (one.shut("p"), other.shut("p")) == (True, False)
        assert await other.admit("p", 8) == (0, pytest.approx(5.05, abs=0.06))
        assert other.shut("p")
        clock.now += 5.1
        assert await one.admit("p", 1) == (1, 0.0)
        assert one.shut("p"), "the one that goes is a probe"
        assert await one.record("p", 1, 0) == "closed"
        assert (one.shut("p"), other.shut("p")) == (False, True)
        assert await other.admit("p", 8) == (8, 0.0)
        assert not other.shut("p")

    story(tell)


def test_two_bad_calls_open_it_where_there_is_nothing_else_to_send_and_nobody_was_answered(story):
    async def tell(clock, one, other):
        assert await one.record("p", 0, 1, stuck=True) == "closed"
        assert await one.record("q", 1, 1) == "closed"
        clock.now += 1
        assert await one.record("q", 0, 1, stuck=True) == "closed", "another worker's call was answered"
        assert await other.record("p", 0, 1) == "closed", "calls are out that may be answered"
        assert await one.record("p", 0, 1, stuck=True) == "open"

    story(tell)


def test_who_only_looks_learns_how_it_stands_and_takes_nobodys_probe(story):
    async def tell(clock, one, other):
        assert not await other.look("p")
        await open_it(one)
        assert await other.look("p")
        assert other.shut("p")
        clock.now += 6
        assert await other.look("p"), "a probe is due"
        assert (await one.admit("p", 3))[0] == 1
        await one.record("p", 1, 0)
        assert not await other.look("p")

    story(tell)


def test_bad_calls_spread_over_more_than_the_window_do_not_open_it(story):
    async def tell(clock, one, other):
        for _ in range(20):
            assert await one.record("p", 0, 1) == "closed"
            clock.now += 3

    story(tell)


def test_thresholds_can_be_set(story):
    async def tell(clock, one, other):
        assert await one.record("p", 7, 1) == "closed"
        assert await one.record("p", 0, 1) == "open"

    story(tell, least_bad=2, share=0.2)


def test_open_it_lets_one_probe_through_every_five_seconds_of_all_workers_together(story):
    async def tell(clock, one, other):
        await open_it(one)
        probes = []
        for _ in range(600):
            for breaker in (one, other):
                allowed, wait = await breaker.admit("p", 8)
                probes += [clock.now] * allowed
                assert wait > 0
            clock.now += 0.1
        assert 11 <= len(probes) <= 12
        for start in probes:
            assert sum(start <= at < start + 15 - 1e-6 for at in probes) <= 3

    story(tell)


def test_the_first_good_answer_after_a_probe_closes_it_at_once(story):
    async def tell(clock, one, other):
        await open_it(one)
        clock.now += 5.1
        assert (await other.admit("p", 8))[0] == 1
        clock.now += 0.2
        assert await other.record("p", 1, 0) == "closed"
        assert await one.admit("p", 8) == (8, 0.0)
        # What was bad before is forgotten.
        assert await one.record("p", 0, 4) == "closed"

    story(tell)


def test_good_answers_to_calls_sent_before_it_opened_do_not_close_it(story):
    async def tell(clock, one, other):
        await open_it(one)
        assert await other.record("p", 3, 0) == "open"
        assert (await other.admit("p", 8))[0] == 0

    story(tell)


def test_a_bad_probe_leaves_it_open(story):
    async def tell(clock, one, other):
        await open_it(one)
        clock.now += 5.1
        assert (await one.admit("p", 8))[0] == 1
        assert await one.record("p", 0, 1) == "open"
        clock.now += 4.8
        assert (await one.admit("p", 8))[0] == 0
        clock.now += 0.3
        assert (await one.admit("p", 8))[0] == 1

    story(tell)


def test_a_server_clock_that_goes_back_does_not_keep_it_shut(story):
    async def tell(clock, one, other):
        await open_it(one)
        clock.now -= 3600
        assert (await one.admit("p", 8))[0] == 1

    story(tell)


def test_nothing_to_record_is_a_mistake_of_the_caller(story):
    async def tell(clock, one, other):
        with pytest.raises(ValueError, match="nothing"):
            await one.record("p", 0, 0)

    story(tell)


def test_what_it_keeps_expires(story, valkey_url):
    async def tell(clock, one, other):
        await one.record("p", 1, 0)
        await one.record("q", 0, 9)
        client = connect(valkey_url)
        names = await client.keys("*:k:*")
        assert sorted(names) == [b"{truckllm}:k:p", b"{truckllm}:k:q"]
        assert 0 < await client.ttl(names[0]) <= 600
        assert 0 < await client.ttl(names[1]) <= 600
        await client.aclose()

    story(tell)


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)).filter(lambda step: step[0] + step[1]),
        max_size=40,
    )
)
def test_it_opens_exactly_when_a_plain_count_of_the_window_says_so(story, steps):
    async def tell(clock, one, other):
        seen: list[tuple[int, int, int]] = []
        for ok, bad, pause in steps:
            seen.append((int(clock.now), ok, bad))
            recent = [(o, b) for at, o, b in seen if at > clock.now - 10]
            all_ok, all_bad = sum(o for o, _ in recent), sum(b for _, b in recent)
            late = [(o, b) for at, o, b in seen if at > clock.now - 2]
            late_ok, late_bad = sum(o for o, _ in late), sum(b for _, b in late)
            gone = late_bad >= 5 and late_bad >= 0.9 * (late_ok + late_bad)
            expected = "open" if (all_bad >= 5 and all_bad >= all_ok) or gone else "closed"
            assert await random.choice([one, other]).record("p", ok, bad) == expected
            if expected == "open":
                return
            clock.now += pause

    story(tell)


def test_on_the_servers_own_clock_a_fresh_opening_waits_about_five_seconds(valkey_url):
    async def main() -> None:
        client = connect(valkey_url)
        await client.flushall()
        breaker = Breaker(client)
        began = time.monotonic()
        await breaker.record("p", 0, 9)
        allowed, wait = await breaker.admit("p", 3)
        assert allowed == 0
        assert 4.9 - (time.monotonic() - began) < wait <= 5.2
        await client.aclose()

    asyncio.run(main())
