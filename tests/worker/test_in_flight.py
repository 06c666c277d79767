"""Calls in flight are counted by pool and model whatever becomes of them, and what refusals and latencies report of them."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.request import Failure, FailureKind, StatedLimit
from worker.in_flight import FEWEST, PAUSE_SECONDS, InFlight
from worker.limits.shapes import Charge, Grant, LimitedKey, Place

LEARNING = {name: LimitedKey(f"p/{name}", f"p/{name}", (), learns=2) for name in ("a", "b")}
FIXED = LimitedKey("p/fixed", "p/fixed", ())
KEY = LimitedKey("p/k", "p/k", (), learns=2)


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def grant(key: LimitedKey, in_flight: int = 0) -> Grant:
    return Grant("w", key, 0.0, 0, Charge(tokens=7), places=(Place(5, 35, in_flight), Place()))


def failure(exceeded: StatedLimit | None = None, retry_after: float | None = None) -> Failure:
    return Failure(FailureKind.RATE_LIMIT, "429", "", 429, retry_after=retry_after, exceeded=exceeded)


def counts(flights: InFlight) -> dict[tuple[str, str], int]:
    return {(one.pool, one.model): one.count for one in flights.report()[0]}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["granted", "sent", "over", "refused"]),
        st.integers(0, 12),
        st.sampled_from(["a", "b", "fixed"]),
        st.sampled_from(["m", "n"]),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_counts_are_exact_whatever_becomes_of_calls(steps: list[tuple[str, int, str, str]]) -> None:
    clock = Clock()
    flights = InFlight(clock)
    live: dict[int, tuple[str, str]] = {}
    seen: set[int] = set()
    sent: set[int] = set()
    for step, attempt, pool, model in steps:
        clock.now += 0.01
        if step == "granted" and attempt not in seen:
            seen.add(attempt)
            flights.granted(attempt, grant(LEARNING.get(pool, FIXED)), model)
            if pool != "fixed":
                live[attempt] = (f"p/{pool}", model)
        elif step == "sent" and attempt in seen and attempt not in sent:
            sent.add(attempt)
            flights.sent(attempt)
        elif step == "over":
            flights.over(attempt)
            live.pop(attempt, None)
            sent.add(attempt)
        elif step == "refused":
            taught = flights.refused(attempt, failure())
            if taught is not None:
                pool_name, of = live[attempt]
                assert taught.in_flight == (
                    sum(what == (pool_name, of) for what in live.values()),
                    sum(what[0] == pool_name for what in live.values()),
                )
        assert counts(flights) == Counter(live.values())
    for attempt in seen:
        flights.over(attempt)
    assert flights.report() == ([], PAUSE_SECONDS[1])


@pytest.mark.parametrize(
    ("unit", "about"),
    [
        ("requests", "requests"),
        ("tokens", "tokens"),
        ("input_tokens", "tokens"),
        ("output_tokens", "tokens"),
        ("concurrent", "calls"),
    ],
)
def test_a_refusal_teaches_the_limit_that_it_names(unit: str, about: str) -> None:
    flights = InFlight(Clock())
    flights.granted(1, grant(LEARNING["a"]), "m")
    flights.sent(1)
    taught = flights.refused(1, failure(StatedLimit(unit, 300, window=60)))  # type: ignore[arg-type]
    assert taught is not None
    assert (taught.about, taught.tokens, taught.places[0].calls, taught.guessed) == (about, 7, 5, False)


@pytest.mark.parametrize("window", [3600, 86400])
def test_a_limit_of_hours_or_days_teaches_nothing(window: float) -> None:
    flights = InFlight(Clock())
    flights.granted(1, grant(LEARNING["a"]), "m")
    flights.sent(1)
    assert flights.refused(1, failure(StatedLimit("requests", 1000, window=window))) is None


def test_fixed_limits_and_calls_that_never_left_teach_nothing() -> None:
    flights = InFlight(Clock())
    flights.granted(1, grant(FIXED), "m")
    flights.sent(1)
    flights.granted(2, grant(LEARNING["a"]), "m")
    assert flights.refused(1, failure()) is None
    assert flights.refused(2, failure()) is None
    assert flights.refused(3, failure()) is None


def answer(flights: InFlight, clock: Clock, first: int, times: int, seconds: float) -> None:
    """Has calls answered one after the other, `seconds` each."""
    for attempt in range(first, first + times):
        flights.granted(attempt, grant(LEARNING["a"]), "m")
        flights.sent(attempt)
        clock.now += seconds
        flights.over(attempt)


def test_a_refusal_is_no_latency() -> None:
    clock = Clock()
    flights = InFlight(clock)
    answer(flights, clock, 0, FEWEST, 1.0)
    for attempt in range(100, 200):
        flights.granted(attempt, grant(LEARNING["a"]), "m")
        flights.sent(attempt)
        clock.now += 0.01
        flights.refused(attempt, failure())
        flights.over(attempt)
    flights.granted(1000, grant(LEARNING["a"]), "m")
    assert flights.report()[1] == pytest.approx(1.3)


@pytest.mark.parametrize(("seconds", "pause"), [(0.01, 0.25), (1.0, 1.3), (30.0, 2.0)])
def test_the_pause_follows_the_latency_between_its_bounds(seconds: float, pause: float) -> None:
    clock = Clock()
    flights = InFlight(clock)
    answer(flights, clock, 0, FEWEST, seconds)
    flights.granted(1000, grant(LEARNING["a"]), "m")
    assert flights.report()[1] == pytest.approx(pause)


def test_growth_stops_while_several_calls_take_longer_than_before_and_goes_on_after() -> None:
    clock = Clock()
    flights = InFlight(clock)
    answer(flights, clock, 0, FEWEST, 1.0)
    for attempt in range(100, 104):
        flights.granted(attempt, grant(LEARNING["a"]), "m")
        flights.sent(attempt)
    assert flights.report()[1] is not None
    clock.now += 2.0
    assert flights.report()[1] is None
    for attempt in range(100, 103):
        flights.over(attempt)
    assert flights.report()[1] is not None, "a single slow call stops nothing"


def test_late_calls_are_reported_with_the_number_in_flight_that_is_one_too_many() -> None:
    clock = Clock()
    flights = InFlight(clock)
    answer(flights, clock, 0, FEWEST, 1.0)
    for attempt in range(100, 120):
        flights.granted(attempt, grant(LEARNING["a"]), "m")
        flights.sent(attempt)
    clock.now += 1.0
    for attempt in range(100, 110):
        flights.over(attempt)
    assert flights.report()[0][0].too_many == 0
    clock.now += 5.0
    (one,) = flights.report()[0]
    assert (one.pool, one.model, one.count, one.too_many) == ("p/a", "m", 10, 11)


def send(calls: InFlight, number: int) -> None:
    calls.granted(number, Grant(str(number), KEY, 0.0, 0, Charge(), places=(Place(number + 1), Place())), "m")
    calls.sent(number)


def steady(calls: InFlight, clock: Clock, latencies: list[float], at_once: int) -> list[float | None]:
    """Keeps so many calls in flight until all are over; returns the pauses that were reported at each end."""
    pauses, ends, waiting = [], [], list(enumerate(latencies))
    while waiting or ends:
        while waiting and len(ends) < at_once:
            number, seconds = waiting.pop(0)
            send(calls, number)
            ends.append((clock.now + seconds, number))
        ends.sort()
        clock.now, number = ends.pop(0)
        pauses.append(calls.report()[1])
        calls.over(number)
    return pauses


@pytest.mark.parametrize("at_once", [8, 32, 128])
def test_latencies_that_differ_widely_let_more_be_tried(at_once: int) -> None:
    clock, dice = Clock(), random.Random(1)
    pauses = steady(InFlight(clock), clock, [dice.lognormvariate(0.0, 0.8) for _ in range(2000)], at_once)
    assert sum(pause is None for pause in pauses[500:]) < 0.25 * 1500


@pytest.mark.parametrize(("stuck", "stops"), [(1, False), (5, True)])
def test_several_calls_that_don_t_come_back_let_no_more_be_tried(stuck: int, stops: bool) -> None:
    clock = Clock()
    calls = InFlight(clock)
    steady(calls, clock, [1.0] * 50, 16)
    for number in range(100, 100 + 16):
        send(calls, number)
    clock.now += 1.0
    for number in range(100, 100 + 16 - stuck):
        calls.over(number)
    clock.now += 1.0
    assert (calls.report()[1] is None) is stops
