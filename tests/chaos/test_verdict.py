"""The judge sees what it is there for: each broken promise is found in a log, and what is right is let pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.figures import Figures
from tests.chaos.ground import NUMBERS, Stop
from tests.chaos.verdict import Breaks, in_flight, overshoot, refused, token_overshoot, unexplained
from worker.sandbox.quotas import key_name

GOOD = Figures("a-scenario", "sqlite", 7, kills=3, rows=500, extra=4, in_flight=6)
KILLED, LIVING = 5, 6
KILL = Breaks(kills=[100.0], living={LIVING})
STOP = Breaks(stops=[Stop(100.0, KILLED)], living={LIVING})
CUT = Breaks(cuts=[100.0], living={KILLED, LIVING})


def call(sha: str = "a", at: float = 99.8, end: float = 100.01, *, whole: bool = False, **more: Any) -> dict[str, Any]:
    row = {"prompt_sha": sha, "at": at, "finished_at": end, "sent_whole": whole, "status": 200 if whole else None}
    return {**row, "billed": True, "fault": None, "key_id": "k", "mono": at, "booked_tokens": 0, **more}


def ledger(*rows: tuple[int, str]) -> dict[str, list[dict[str, Any]]]:
    """The calls in the ledger of the only prompt: of which worker, and with what outcome."""
    return {
        "a": [
            {
                "id": worker * NUMBERS + n,
                "outcome": outcome,
                "http_status": 200 if outcome in ("succeeded", "fenced") else None,
            }
            for n, (worker, outcome) in enumerate(rows)
        ]
    }


def flying(calls: list[dict[str, Any]], breaks: Breaks, *rows: tuple[int, str]) -> Counter[str]:
    made = defaultdict(list)
    for one in calls:
        made[one["prompt_sha"]].append(one)
    return in_flight(made, ledger(*rows), breaks)


def test_figures_as_promised_break_nothing() -> None:
    assert GOOD.promises() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lost": 1}, "1 rows were lost"),
        ({"doubled": 2}, "2 rows have two results"),
        ({"extra": 9}, "3 extra calls are more than were in flight"),
        ({"unexplained": 1}, "1 extra calls are of rows of which no call was in flight"),
        ({"unseen": 1}, "1 extra calls are neither `unknown` nor `fenced` in the ledger"),
        ({"ledger_difference": 1}, "1 calls differ between ledger and provider"),
        ({"limit_overshoot": 5}, "5 calls went beyond a key's limit in 60 s"),
        ({"token_overshoot": 7}, "7 tokens went beyond a key's limit in 60 s"),
        ({"broken": ("a process stayed behind",)}, "a process stayed behind"),
    ],
)
def test_every_broken_promise_is_told(change: dict[str, Any], told: str) -> None:
    assert replace(GOOD, **change).promises() == [told]


def test_a_call_whose_connection_broke_at_a_kill_was_in_flight() -> None:
    assert flying([call()], KILL, (KILLED, "unknown")) == {"a": 1}


def test_a_call_whose_connection_broke_at_another_time_was_not() -> None:
    others = [call(end=99.5), call(end=103.5), call(at=103.2, end=103.5)]
    assert not flying(others, KILL, *[(KILLED, "unknown")] * 3)


def test_a_call_that_broke_at_a_kill_was_not_in_flight_if_its_worker_lives() -> None:
    assert not flying([call()], KILL, (LIVING, "unknown"))


def test_a_call_answered_just_before_a_kill_was_in_flight_only_if_the_ledger_does_not_know_the_answer() -> None:
    answered = call(end=99.9, whole=True)
    assert flying([answered], KILL, (KILLED, "unknown")) == {"a": 1}
    assert not flying([answered], KILL, (KILLED, "succeeded"))


def test_a_call_answered_long_before_a_kill_was_not_in_flight_whatever_the_ledger_says() -> None:
    assert not flying([call(at=94.0, end=94.4, whole=True)], KILL, (KILLED, "unknown"))


def test_a_killed_call_and_the_one_that_was_made_again_are_one_call_in_flight() -> None:
    calls = [call(), call(at=100.2, end=100.3, whole=True)]
    assert flying(calls, KILL, (KILLED, "unknown"), (LIVING, "succeeded")) == {"a": 1}


def test_of_a_stopped_worker_the_calls_that_were_open_then_were_in_flight_however_late_they_ended() -> None:
    late = [call(end=190.0, whole=True)]
    assert flying(late, STOP, (KILLED, "fenced")) == {"a": 1}
    assert flying([call(end=99.9, whole=True)], STOP, (KILLED, "fenced")) == {"a": 1}
    assert not flying(late, STOP, (LIVING, "fenced"))
    assert not flying(late, STOP, (KILLED, "succeeded"))
    assert not flying([call(at=110.0, end=112.0, whole=True)], STOP, (KILLED, "fenced"))


def test_calls_that_broke_when_connections_were_cut_were_in_flight_whosever_they_were() -> None:
    assert flying([call()], CUT, (LIVING, "unknown")) == {"a": 1}
    answered = [call(end=99.99, whole=True), call(at=160.0, end=160.2, whole=True)]
    assert flying(answered, CUT, (LIVING, "unknown"), (LIVING, "failed"), (LIVING, "succeeded")) == {"a": 1}
    assert not flying([call()], CUT, (LIVING, "failed"))
    assert not flying([call(end=99.5)], CUT, (LIVING, "unknown"))


def test_a_call_in_flight_explains_no_extra_call_of_another_row() -> None:
    assert unexplained({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 5}) == 0
    assert unexplained({"a": 1, "b": 2}, {"a": 3, "c": 5}) == 2


def test_a_call_that_was_refused_or_spoilt_may_be_made_again() -> None:
    assert refused(call(status=429, billed=False))
    assert refused(call(whole=True, fault="truncated"))
    assert not refused(call(whole=True))
    assert not refused(call())


def limited(**limits: int) -> Any:
    """A ground with one key that has these limits."""
    key = SimpleNamespace(secret=SimpleNamespace(reveal=lambda: "sk-1"), **limits)
    return SimpleNamespace(config=SimpleNamespace(providers=[SimpleNamespace(keys=[key])]))


def test_calls_beyond_a_limit_are_counted_in_the_worst_sixty_seconds() -> None:
    ground = limited(limit_req_per_min=10)
    spread = [call(key_id=key_name("sk-1"), at=6.0 * n) for n in range(30)]
    assert overshoot(ground, spread) == 0
    assert overshoot(ground, [*spread, *(call(key_id=key_name("sk-1"), at=30.5) for _ in range(3))]) == 3


def test_tokens_beyond_a_limit_are_counted_as_the_provider_books_them() -> None:
    key = key_name("sk-1")
    mine = [call(key_id=key, at=6.0 * n, end=6.0 * n + 1, booked_tokens=100, output_tokens=20) for n in range(30)]
    late = call(key_id=key, at=30.5, end=62.5, booked_tokens=40, output_tokens=70)
    assert token_overshoot(limited(limit_tokens_per_min=1000), mine) == 0
    assert token_overshoot(limited(limit_tokens_per_min=1000), [*mine, late]) == 40
    assert token_overshoot(limited(limit_input_tokens_per_min=990), mine) == 10
    assert token_overshoot(limited(limit_output_tokens_per_min=240), [*mine, late]) == 30
