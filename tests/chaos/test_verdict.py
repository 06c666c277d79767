"""The judge sees what it is there for: each broken promise is found in a log, and what is right is let pass."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.figures import Figures
from tests.chaos.ground import Kill
from tests.chaos.verdict import in_flight, overshoot, refused
from worker.sandbox.quotas import key_name

GOOD = Figures("a-scenario", "sqlite", 7, kills=3, rows=500, extra=4, in_flight=6)
KILL = [Kill(100.0, "random")]


def call(sha: str = "a", at: float = 99.8, end: float = 100.01, *, whole: bool = False, **more: Any) -> dict[str, Any]:
    row = {"prompt_sha": sha, "at": at, "finished_at": end, "sent_whole": whole, "status": 200 if whole else None}
    return {**row, "billed": True, "fault": None, "key_id": "k", "mono": at, **more}


def test_figures_as_promised_break_nothing() -> None:
    assert GOOD.promises() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lost": 1}, "1 rows were lost"),
        ({"doubled": 2}, "2 rows have two results"),
        ({"extra": 9}, "3 extra calls are more than were in flight at the kills"),
        ({"unseen": 1}, "1 extra calls are neither `unknown` nor `fenced` in the ledger"),
        ({"ledger_difference": 1}, "1 calls differ between ledger and provider"),
        ({"limit_overshoot": 5}, "5 calls went beyond a key's limit in 60 s"),
        ({"broken": ("a process stayed behind",)}, "a process stayed behind"),
    ],
)
def test_every_broken_promise_is_told(change: dict[str, Any], told: str) -> None:
    assert replace(GOOD, **change).promises() == [told]


def test_a_call_whose_connection_broke_at_a_kill_was_in_flight() -> None:
    assert in_flight([call()], KILL, {}) == 1


def test_a_call_whose_connection_broke_at_another_time_was_not() -> None:
    assert in_flight([call(end=99.5), call(end=103.5), call(at=103.2, end=103.5)], KILL, {}) == 0


def test_a_call_answered_just_before_a_kill_was_in_flight_only_if_the_ledger_does_not_know_the_answer() -> None:
    answered = call(end=99.9, whole=True)
    assert in_flight([answered], KILL, {}) == 1
    assert in_flight([answered], KILL, {"a": 1}) == 0


def test_a_call_answered_long_before_a_kill_was_not_in_flight_whatever_the_ledger_says() -> None:
    assert in_flight([call(at=97.0, end=97.4, whole=True)], KILL, {}) == 0


def test_a_killed_call_and_the_one_that_was_made_again_are_one_call_in_flight() -> None:
    assert in_flight([call(), call(at=100.2, end=100.3, whole=True)], KILL, {"a": 1}) == 1


def test_a_call_that_was_refused_or_spoilt_may_be_made_again() -> None:
    assert refused(call(status=429, billed=False))
    assert refused(call(whole=True, fault="truncated"))
    assert not refused(call(whole=True))
    assert not refused(call())


def test_calls_beyond_a_limit_are_counted_in_the_worst_sixty_seconds() -> None:
    secret = SimpleNamespace(reveal=lambda: "sk-1")
    key = SimpleNamespace(secret=secret, limit_req_per_min=10)
    ground: Any = SimpleNamespace(config=SimpleNamespace(providers=[SimpleNamespace(keys=[key])]))
    spread = [call(key_id=key_name("sk-1"), at=6.0 * n) for n in range(30)]
    assert overshoot(ground, spread) == 0
    assert overshoot(ground, [*spread, *(call(key_id=key_name("sk-1"), at=30.5) for _ in range(3))]) == 3
