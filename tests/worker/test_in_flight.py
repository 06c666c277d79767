"""Calls in flight: when more may be tried, by how long calls take."""

from __future__ import annotations

import random

import pytest

from worker.in_flight import InFlight
from worker.limits.shapes import Charge, Grant, LimitedKey

KEY = LimitedKey("p/k", "p/k", (), learns=2)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def send(calls: InFlight, number: int) -> None:
    calls.granted(number, Grant(str(number), KEY, 0.0, 0, Charge()), "m")
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
