"""The limiter against servers of any kind, in virtual time; `bench/limits_simulated.py` shows one of them as it goes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.worker.limits.servers import Call, Latency, Refusal, Scenario, Server, drawn
from tests.worker.limits.simulated import SERVER_FIRST, Simulation, played, simulate

seeds = st.integers(0, 2**20)


def some(examples: int):
    return settings(
        max_examples=examples, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
    )


# The servers themselves


def call(model: str = "m", prompt: int = 100) -> Call:
    return Call(model, 0, prompt, 40, 60)


def test_a_place_among_the_calls_in_flight_is_free_when_a_call_ends():
    server = Server(Scenario({"concurrent": 2}), 0.0)
    first, second = call(), call()
    assert [server.arrive(one, 1.0) for one in (first, second)] == [0.5, 0.5]
    refusal = server.arrive(call(), 1.1)
    assert isinstance(refusal, Refusal)
    assert (refusal.about, server.in_flight) == ("concurrent", 2)
    server.leave(first, 1.5)
    assert server.arrive(call(), 1.5) == 0.5
    server.change(2.0, concurrent=3)
    assert server.arrive(call(), 2.0) == 0.5
    assert isinstance(server.arrive(call(), 2.0), Refusal)


def test_latency_grows_with_the_calls_in_flight():
    server = Server(Scenario({}, latency=Latency(1.0, above=2, beyond=60.0, growth=0.5)), 0.0)
    assert [server.arrive(call(), 0.0) for _ in range(4)] == [1.0, 1.0, 60.5, 61.0]


def test_tokens_are_taken_by_the_server_s_own_rule_and_output_at_the_end():
    server = Server(Scenario({"tpm": 300, "window": "sliding", "counts": "usage", "count_factor": 2.0}), 0.0)
    one = call()
    assert server.arrive(one, 0.0) == 0.5
    server.leave(one, 0.5)
    assert server.between(0.0, 1.0).tokens == 280
    assert isinstance(server.arrive(call(), 1.0), Refusal)


@given(seeds)
def test_a_drawn_server_can_be_used_up(seed):
    scenario = drawn(seed)
    assert 0 < scenario.possible < 1e6
    assert scenario == drawn(seed)
    assert isinstance(Server(scenario, 0.0).arrive(call(), 0.0), float) or scenario.stray


# The limiter against them


def worst_minutes(simulation: Simulation, window) -> dict[str, float]:
    """By bucket, the share of its limit in the fullest 60 s."""
    booked = {}
    for grant in simulation.granted:
        for bucket in grant.key.buckets:
            booked.setdefault(bucket, window()).add(grant.start_at, grant.charge.of(bucket.unit))
    return {bucket.id: its.worst() / bucket.limit for bucket, its in booked.items()}


@some(6)
@given(seeds)
def test_no_configured_limit_is_exceeded_whatever_the_server_does(virtual, seed):
    scenario = drawn(seed)
    simulation = played(virtual.url, scenario, 130)
    assert all(share <= 1.0 for share in worst_minutes(simulation, virtual.Window).values()), scenario
    flying: Counter[int] = Counter()
    for one in simulation.server.seen:
        flying[one.in_flight] += 1
    assert max(flying) <= scenario.workers * scenario.concurrency


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario({"rpm": 600}, {"requests": 600}, latency=Latency(0.2)),
        Scenario({"rpm": 600, "window": "fixed"}, {"requests": 600}, latency=Latency(5.0, "lognormal"), workers=4),
        Scenario({"rpm": 600, "window": "sliding"}, {"requests": 600}, latency=Latency(60.0), concurrency=900),
        Scenario({"rpm": 3000, "headers": "wrong"}, {"requests": 3000}, workers=8),
        Scenario({"tpm": 60_000}, {"tokens": 60_000}, prompt=(20, 400), keys=2, provider="gemini"),
    ],
    ids=["0.2s", "fixed-5s", "sliding-60s", "3000-wrong-headers", "tokens"],
)
def test_a_right_configuration_is_used_and_nothing_is_learned(virtual, scenario):
    async def story(simulation):
        await simulation.run(120)
        assert await simulation.learned() == {}

    simulation = simulate(virtual.url, scenario, story)
    assert simulation.refused(0, 120) == 0
    assert simulation.share(2, 12) >= 0.95
    assert simulation.share(30, 120) >= 0.98


@pytest.mark.parametrize(
    "latency",
    [Latency(1.0), Latency(2.0, "lognormal"), Latency(20.0), Latency(1.0, growth=0.01)],
    ids=["1s", "spread", "20s", "growing"],
)
def test_a_server_without_limits_is_not_slowed(virtual, latency):
    scenario = Scenario({}, latency=latency, concurrency=48)
    taken = {
        learns: played(virtual.url, scenario, 90, learns=learns).server.between(SERVER_FIRST + 30, SERVER_FIRST + 90)
        for learns in (False, True)
    }
    assert taken[True].taken >= 0.97 * taken[False].taken


def test_stray_refusals_cost_next_to_nothing(virtual):
    scenario = Scenario({}, {"requests": 1500}, stray=0.001)
    simulation = played(virtual.url, replace(scenario, seed=3), 120)
    assert simulation.server.between(SERVER_FIRST + 30, SERVER_FIRST + 120).taken >= 0.96 * 1500 * 1.5
