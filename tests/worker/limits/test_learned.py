"""What is learned of servers that enforce something else than what is configured, in virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.worker.limits.servers import Latency, Scenario
from tests.worker.limits.simulated import Simulation, played, simulate
from worker.limits.learned import Ceiling, exchange
from worker.limits.limiter import Bucket, Flying, Grant, Refused, Wait

UNNAMED = {"headers": "none", "retry_after": "none"}


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.full), 4])
@pytest.mark.parametrize(
    "scenario",
    [
        Scenario({"rpm": 300}, {"requests": 600}, latency=Latency(0.3)),
        Scenario({"rpm": 300, **UNNAMED}, {"requests": 6000}, latency=Latency(0.3), names_limit=False),
        Scenario({"rpm": 300, "refusals_count": False}, latency=Latency(0.3)),
        Scenario({"rpm": 1200}, {"requests": 6000}, latency=Latency(2.0, "lognormal")),
        Scenario({"tpm": 40_000}, {"tokens": 80_000}, prompt=(50, 300)),
        Scenario({"concurrent": 8, **UNNAMED}, {"requests": 6000}, latency=Latency(1.0)),
        Scenario({"concurrent": 8, **UNNAMED}, latency=Latency(1.0)),
        Scenario({"concurrent": 20}, {"requests": 6000}, latency=Latency(1.0, "lognormal")),
    ],
    ids=["half", "twentieth", "unconfigured", "spread", "tokens", "calls", "calls-unconfigured", "calls-spread"],
)
def test_the_real_limit_is_found_within_a_minute_and_kept(virtual, scenario, workers):
    simulation = played(virtual.url, replace(scenario, workers=workers), 180)
    assert simulation.share(60, 180) >= 0.9
    assert simulation.refused(60, 180) <= 0.02


@pytest.mark.parametrize("factor", [1.5, 3.0])
def test_a_limit_that_the_vendor_raises_is_used_within_five_minutes(virtual, factor):
    async def story(simulation: Simulation) -> None:
        await simulation.run(100)
        simulation.server.change(simulation.now, rpm=int(300 * factor))
        await simulation.run(360)

    simulation = simulate(virtual.url, Scenario({"rpm": 300}, {"requests": 6000}), story)
    taken = simulation.server.between(simulation.now - 60, simulation.now).taken
    assert taken >= 0.9 * 300 * factor


def test_a_limit_that_the_vendor_lowers_is_found_again(virtual):
    async def story(simulation: Simulation) -> None:
        await simulation.run(60)
        simulation.server.change(simulation.now, rpm=200)
        await simulation.run(180)

    simulation = simulate(virtual.url, Scenario({"rpm": 600}, {"requests": 600}), story)
    seen = simulation.server.between(simulation.now - 120, simulation.now)
    assert seen.taken >= 0.9 * 400
    assert seen.refused_share <= 0.02


def test_calls_in_flight_stay_where_answers_come_late_beyond(virtual):
    scenario = Scenario({}, latency=Latency(1.0, above=20, beyond=60.0), concurrency=128)
    simulation = played(virtual.url, scenario, 200)
    assert simulation.share(120, 200) >= 0.85


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_refusals_that_no_rate_causes_don_t_bring_the_rate_down_for_long(virtual, share):
    scenario = Scenario({}, {"requests": 1200}, stray=share, names_limit=False)
    taken = {
        learns: played(virtual.url, scenario, 300, learns=learns).server.between(0.0, 1e12).taken
        for learns in (False, True)
    }
    assert taken[True] >= 0.6 * taken[False]


def of(about: str = "requests") -> Refused:
    return Refused(about, 0)  # type: ignore[arg-type]


async def refuse(limiter: Any, key: Any, times: int, wait: float | None = None, about: str = "requests") -> None:
    for _ in range(times):
        await limiter.too_many(key, wait, 0.1, model="m", sent=0.0, refused=of(about))


def test_what_a_model_was_refused_holds_back_no_other_model_and_no_other_pool(virtual):
    async def story(world: Any) -> None:
        one, other = replace(virtual.key("p/k"), learns=1), replace(virtual.key("p/other"), learns=1)
        limiter = await world.limiter()
        await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        await refuse(limiter, one, 60)
        world.now += 0.2
        for key, model, few in ((one, "m", True), (one, "n", False), (other, "m", False)):
            answers = await world.ask(limiter, *[world.want([key], model=model) for _ in range(64)])
            got = sum(isinstance(answer, Grant) for answer in answers)
            assert (got < 16) is few
            assert all(answer.reason == "model" for answer in answers if isinstance(answer, Wait))

    virtual.run(story)


@pytest.mark.parametrize("times", [1])
def test_a_lone_refusal_teaches_nothing(virtual, times):
    async def story(world: Any) -> None:
        one, limiter = replace(virtual.key("p/k"), learns=1), await world.limiter()
        await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        await refuse(limiter, one, times)
        world.now += 2.0
        for _ in range(3):
            answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
            assert all(isinstance(answer, Grant) for answer in answers)

    virtual.run(story)


def test_a_wait_for_a_day_teaches_no_rate(virtual):
    async def story(world: Any) -> None:
        one, limiter = replace(virtual.key("p/k"), learns=1), await world.limiter()
        reports: list[Any] = []
        limiter._report = lambda key, model, learned: reports.extend(learned)
        for _ in range(5):
            await world.ask(limiter, world.want([one], model="m"))
            await refuse(limiter, one, 1, wait=3600.0)
        assert not any(reports)

    virtual.run(story)


def test_fixed_limits_are_never_lowered(virtual):
    async def story(world: Any) -> None:
        one, limiter = virtual.key("p/k"), await world.limiter()
        await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        for _ in range(60):
            await limiter.too_many(one, None, 0.1, model="m", sent=0.0)
        world.now += 2.0
        answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        assert all(isinstance(answer, Grant) for answer in answers)

    virtual.run(story)


def test_a_stated_limit_holds_from_the_next_call_on_until_refusals_show_another(virtual):
    async def story(world: Any) -> None:
        one, limiter = replace(virtual.key("p/k"), learns=1), await world.limiter()
        assert await limiter.stated("p/k", "m", 60.0, 0.0)
        assert not await limiter.stated("p/k", "m", 60.0, 0.0), "the same again"
        for expected in (1, 1):
            answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(8)])
            assert sum(isinstance(answer, Grant) for answer in answers) <= expected + 1
            world.now += 1.0
        assert await limiter.stated("p/k", "m", 6000.0, 0.0), "the vendor has raised it"
        world.now += 1.0
        answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        assert sum(isinstance(answer, Grant) for answer in answers) == 64

    virtual.run(story)


def test_what_is_learned_is_compared_with_limits_by_minute_alone(virtual, caplog):
    async def story(world: Any) -> None:
        day = Bucket("p/k|day", "requests", 100, "UTC")
        one, limiter = (
            replace(virtual.key("p/k"), buckets=(day,), learns=1),
            await world.limiter(wall=lambda: world.now),
        )
        answers = await world.ask(limiter, *[world.want([one], model="m") for _ in range(64)])
        assert all(isinstance(answer, Grant) for answer in answers)
        await refuse(limiter, one, 32)
        (found,) = await exchange(limiter._client, ["p/k"], now=world.now)
        assert found.requests_per_min > 100, "more a minute than may start in a day"
        (answer,) = await world.ask(limiter, world.want([one], model="m"))
        assert isinstance(answer, Grant) or answer.reason == "model"

    virtual.run(story)
    assert "requests a minute, configured nothing" in caplog.text


def test_calls_in_flight_of_a_killed_worker_stop_counting_after_ten_seconds(virtual):
    async def story(world: Any) -> None:
        one = replace(virtual.key("p/k"), learns=1)
        killed, other = await world.limiter(), await world.limiter()
        seed = Ceiling("p/k", "m", 0, 0, 8)
        await exchange(other._client, ["p/k"], seeds=[seed], now=world.now)
        answers = await killed.reserve([world.want([one], model="m") for _ in range(16)])
        assert sum(isinstance(answer, Grant) for answer in answers) == 8
        for seconds, granted in ((0.0, 0), (5.0, 0), (4.0, 0), (2.0, 8)):
            world.now += seconds
            answers = await other.reserve([world.want([one], model="m") for _ in range(16)])
            assert sum(isinstance(answer, Grant) for answer in answers) == granted
            assert all(answer.reason == "in_flight" for answer in answers if isinstance(answer, Wait))

    virtual.run(story)


def test_calls_in_flight_of_a_worker_that_only_reports_go_on_counting(virtual):
    async def story(world: Any) -> None:
        one = replace(virtual.key("p/k"), learns=1)
        silent, other = await world.limiter(), await world.limiter()
        await exchange(other._client, ["p/k"], seeds=[Ceiling("p/k", "m", 0, 0, 8)], now=world.now)
        await silent.reserve([world.want([one], model="m") for _ in range(16)])
        for _ in range(10):
            world.now += 3.0
            await silent.report("p", [Flying("p/k", "m", 6)])
        answers = await other.reserve([world.want([one], model="m") for _ in range(16)])
        assert sum(isinstance(answer, Grant) for answer in answers) == 2

    virtual.run(story)
