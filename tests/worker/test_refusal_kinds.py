"""Which limit unnamed 429s are about is told from the calls in flight at which they came, and late answers from those with few."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.refusal_kinds import LATE_SECONDS, REMEMBERED_SECONDS, SPREAD_SECONDS, RefusalKinds, Sent

REFUSED_AFTER = 0.05
"""Seconds from sending a call to its refusal."""
P, M = "p/k", "m"
BEGIN = 1_000.0


class Play:
    """Calls in virtual time, from one worker to one server."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.kinds = RefusalKinds(lambda: self.now)
        self.verdicts: list[bool] = []
        self.times: list[float] = []
        self.in_flight = 0

    def send(self) -> Sent:
        self.in_flight += 1
        return self.kinds.sent(P, M, self.in_flight)

    def end(self, call: Sent) -> None:
        self.in_flight -= 1
        call.over = True

    def refuse(self, call: Sent) -> bool:
        self.in_flight -= 1
        self.verdicts.append(self.kinds.refused(P, M, call))
        self.times.append(self.now)
        return self.verdicts[-1]


def calls_limit(limit: int) -> Callable[[float, int], bool]:
    """Refuses a call where so many that were taken are still out."""
    return lambda now, taken: taken >= limit


def rate_limit(rate: float, burst: float) -> Callable[[float, int], bool]:
    """Refuses a call where a bucket of `rate` a second is empty."""
    state = [burst, BEGIN]

    def refuses(now: float, taken: int) -> bool:
        state[0] = min(burst, state[0] + rate * (now - state[1]))
        state[1] = now
        if state[0] < 1.0:
            return True
        state[0] -= 1.0
        return False

    return refuses


def played(
    refuses: Callable[[float, int], bool], *, rate: float, latency: float, seconds: float, seed: int, most: int = 10_000
) -> Play:
    """Sends calls at about `rate` a second, as a limiter spreads them, with at most `most` in flight."""
    play, dice = Play(), random.Random(seed)
    began = play.now
    ends: list[tuple[float, int, bool, Sent]] = []
    taken = serial = 0
    due = play.now
    while play.now < began + seconds:
        due += dice.uniform(0.5, 1.5) / rate
        while ends and ends[0][0] <= due:
            play.now, _, refused, call = heapq.heappop(ends)
            if refused:
                play.refuse(call)
            else:
                taken -= 1
                play.end(call)
        play.now = due
        if play.in_flight >= most:
            continue
        call = play.send()
        serial += 1
        if refuses(play.now, taken):
            heapq.heappush(ends, (play.now + REFUSED_AFTER, serial, True, call))
        else:
            taken += 1
            heapq.heappush(ends, (play.now + latency * dice.uniform(0.8, 1.25), serial, False, call))
    return play


@pytest.mark.parametrize("latency", [1.0, 3.0, 8.0])
def test_a_server_that_limits_calls_in_flight_is_recognised(latency: float) -> None:
    recognised = 0
    for seed in range(10):
        dice = random.Random(seed)
        limit = dice.randint(4, 40)
        rate = limit / latency + dice.uniform(0.5, 3.0)
        play = played(calls_limit(limit), rate=rate, latency=latency, seconds=20 + 2 * latency, seed=seed)
        recognised += any(play.verdicts)
    assert recognised >= 9


@pytest.mark.parametrize("latency", [0.2, 1.0, 3.0, 8.0, 20.0])
def test_a_rate_limit_is_not_taken_for_one_at_any_latency(latency: float) -> None:
    ramp = 1.5 * latency + REMEMBERED_SECONDS  # until answers come, later calls have more in flight in any case
    steady: list[bool] = []
    for seed in range(5):
        dice = random.Random(seed)
        rate, burst = dice.uniform(2.0, 10.0), dice.uniform(1.0, 3.0)
        rate_asked = rate * dice.uniform(1.1, 2.0)
        play = played(rate_limit(rate, burst), rate=rate_asked, latency=latency, seconds=ramp + 20, seed=seed)
        steady += [verdict for verdict, at in zip(play.verdicts, play.times, strict=True) if at > BEGIN + ramp]
    assert len(steady) > 50
    assert sum(steady) <= 0.02 * len(steady)


def test_a_herd_alone_is_not_enough() -> None:
    play = Play()
    herd = [play.send() for _ in range(40)]
    play.now += REFUSED_AFTER
    verdicts = [play.refuse(call) for call in herd[8:]]
    assert not any(verdicts)
    play.now += SPREAD_SECONDS
    for call in herd[:8]:
        play.end(call)
    assert not any(play.verdicts)


def test_what_was_seen_of_one_model_counts_for_no_other_and_not_for_long() -> None:
    play = played(calls_limit(8), rate=10.0, latency=1.0, seconds=20, seed=1)
    assert any(play.verdicts)
    assert not play.kinds.refused(P, "other", play.kinds.sent(P, "other", 100))
    play.now += REMEMBERED_SECONDS
    assert not play.refuse(play.send())


def test_a_few_refusals_at_few_calls_in_flight_are_left_to_chance() -> None:
    play = played(calls_limit(2), rate=4.0, latency=1.0, seconds=30, seed=1)
    assert play.verdicts
    assert not any(play.verdicts)


def late(good: list[int], out: list[int], seconds: float) -> int:
    """Returns what is too many where calls with `good` in flight were answered, and those with `out` are out for so many seconds."""
    play = Play()
    for count in good:
        play.kinds.sent(P, M, count).over = True
    for count in out:
        play.kinds.sent(P, M, count)
    play.now += seconds
    return play.kinds.late(P, M, 2.0)


def test_late_answers_show_the_fewest_calls_with_which_they_come_late() -> None:
    assert late(list(range(1, 21)), list(range(21, 31)), 3.0) == 21


@pytest.mark.parametrize(
    ("good", "out", "seconds"),
    [
        (list(range(1, 21)), list(range(21, 31)), 1.9),  # nobody is late
        (list(range(1, 21)), [21], 3.0),  # a single call may be long
        ([1, 2], list(range(21, 31)), 3.0),  # too few were answered
        (list(range(1, 31)), list(range(1, 31)), 3.0),  # late with any number in flight
        (list(range(21, 31)), list(range(1, 21)), 3.0),  # late with few
        (list(range(1, 21)), list(range(21, 31)), LATE_SECONDS + 1.0),  # the good ones are long ago
    ],
)
def test_calls_are_not_late_for_their_number(good: list[int], out: list[int], seconds: float) -> None:
    assert late(good, out, seconds) == 0


@given(st.lists(st.integers(1, 200), max_size=40), st.lists(st.integers(1, 200), max_size=40))
def test_what_is_too_many_is_a_number_at_which_a_call_is_late(good: list[int], out: list[int]) -> None:
    found = late(good, out, 3.0)
    assert found == 0 or found == min(out)
