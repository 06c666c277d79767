"""What a process remembers of a provider: whether it answers others, and how long its pools are to be left alone."""

from __future__ import annotations

import random

from worker.experience import LONGEST_COOL, LONGEST_TOLD_COOL, Cooling, Experience


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_provider_answers_others_when_nearly_all_calls_but_the_jobs_own_went_well() -> None:
    clock = Clock()
    seen = Experience(clock)
    assert not seen.answers_others("bad", 60, 0), "nothing was answered"
    for _ in range(3):
        seen.add("bad")
    assert not seen.answers_others("bad", 60, 3)
    seen.add("good")
    assert seen.answers_others("bad", 60, 3)
    seen.add("bad")
    assert not seen.answers_others("bad", 60, 3), "one of two others went wrong"
    for _ in range(49):
        seen.add("good")
    assert seen.answers_others("bad", 60, 3), "one of fifty"


def test_one_kind_of_trouble_says_nothing_of_another() -> None:
    seen = Experience(Clock())
    seen.add("good")
    for _ in range(100):
        seen.add("limited")
    assert seen.answers_others("bad", 60, 0)
    assert not seen.answers_others("limited", 60, 10)


def test_only_the_time_since_the_jobs_first_failure_counts_and_nothing_older_than_an_hour() -> None:
    clock = Clock()
    seen = Experience(clock)
    for _ in range(100):
        seen.add("bad")
    clock.now += 30
    seen.add("good")
    assert seen.answers_others("bad", 10, 1)
    assert not seen.answers_others("bad", 40, 1)
    for _ in range(1000):
        clock.now += 10
        seen.add("good")
    assert len(seen._blocks) <= 721
    assert seen.answers_others("bad", 1e9, 0)


def test_a_pool_rests_longer_each_time_that_nothing_came_through_in_between() -> None:
    clock = Clock()
    cooling = Cooling(random.Random(1), clock)
    rests = []
    for _ in range(8):
        started = clock.now
        clock.now += 0.1
        rest = cooling.seconds("p")
        cooling.cools("p", rest)
        cooling.cools("p", cooling.seconds("p") / 2)  # others that were refused at the same time make it no longer
        assert cooling.cool("p")
        cooling.answered("p", started)  # sent before: says nothing of now
        rests.append(rest)
        clock.now += rest + 20
        assert not cooling.cool("p")
    assert 1 <= rests[0] <= 2
    assert all(2 ** min(n, 3) * 1.0 <= rest <= 2 ** min(n, 3) * 2.0 for n, rest in enumerate(rests[:4]))
    assert all(LONGEST_COOL / 2 <= rest <= LONGEST_COOL for rest in rests[4:])
    assert LONGEST_TOLD_COOL / 2 <= cooling.seconds("p", told=True) <= LONGEST_TOLD_COOL
    cooling.answered("p", clock.now)
    assert cooling.seconds("p") <= 2
    assert not cooling.cool("q")
