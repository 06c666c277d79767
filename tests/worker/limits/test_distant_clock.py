"""The server's clock as seen from here: how old an answer is, and when nobody can tell."""

from __future__ import annotations

import pytest

from worker.limits.distant_clock import STEADY_SECONDS, DistantClock


class Line:
    """A server whose clock is ahead by `ahead` seconds, and the way to it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ahead = 1_000_000.0
        self.clock = DistantClock(lambda: self.now)

    def ask(self, question: float, answer: float) -> float | None:
        """What the clock says of the answer's age, which is `answer`."""
        asked = self.now
        self.now += question
        told = self.now + self.ahead
        self.now += answer
        return self.clock.age(told, asked)


def test_the_quickest_answer_tells_how_old_the_others_are() -> None:
    line = Line()
    assert line.ask(0.1, 0.7) == 0.0
    assert line.ask(0.1, 0.001) == 0.0
    assert line.ask(3.0, 0.5) == pytest.approx(0.499)
    assert line.ask(0.0, 4.0) == pytest.approx(3.999)


def test_a_first_answer_that_was_long_on_its_way_says_nothing_and_the_second_is_believed() -> None:
    line = Line()
    assert line.ask(0.4, 0.7) is None
    assert line.ask(0.4, 0.7) == pytest.approx(0.0)


@pytest.mark.parametrize("step", [-3600.0, -2.0, 2.0, 3600.0])
def test_a_clock_that_was_set_is_learned_anew(step: float) -> None:
    line = Line()
    line.ask(0.001, 0.001)
    line.ahead += step
    assert line.ask(0.7, 0.9) is None
    assert line.ask(0.001, 0.001) == pytest.approx(0.0)
    assert line.ask(0.5, 0.6) == pytest.approx(0.599)


def test_what_is_known_of_the_other_clock_gets_old() -> None:
    line = Line()
    line.ask(0.0, 0.0)
    line.now += STEADY_SECONDS - 10
    assert line.ask(0.0, 0.2) == pytest.approx(0.2)
    assert line.clock.latest() == pytest.approx(line.now + line.ahead)
    line.now += 20
    assert line.ask(0.0, 0.2) == 0.0
    line.now += STEADY_SECONDS
    assert line.clock.latest() is None
