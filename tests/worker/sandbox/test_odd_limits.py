"""Servers that count in ways of their own: other windows, other charges, fewer calls than they claim, calls at once, days."""

import math
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.servers import wait_for
from tests.worker.sandbox.conftest import KEY, PROVIDERS, Play, Played
from worker.sandbox.buckets import FixedMinute, SlidingMinute
from worker.sandbox.quotas import Pool
from worker.sandbox.settings import Account, Limits, SandboxSettings

OWN = (100, 0)
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()


def account(provider: str, **limits: object) -> dict[str, object]:
    return {"provider": provider, "key": KEY, **limits}


def pool(**limits: Any) -> Pool:
    return Pool(Limits.model_validate(limits), "openai", 0.0)


def admitted(pool: Pool, calls: int, now: float = 0.0, model: str = "m", tokens: int = 0) -> int:
    return sum(pool.admit(model, tokens, now, NOON + now) is None for _ in range(calls))


# How a minute is counted


def test_a_fixed_minute_is_whole_again_when_the_clock_says_so() -> None:
    served = pool(rpm=10, window="fixed")
    assert admitted(served, 20, 50.0) == 10
    denial = served.admit("m", 0, 55.0, NOON)
    assert denial is not None
    assert denial.wait == 5.0
    assert admitted(served, 20, 60.0) == 10  # twice the limit within ten seconds, as such servers allow


def test_a_sliding_minute_gives_each_call_back_after_sixty_seconds() -> None:
    served = pool(rpm=10, window="sliding")
    assert admitted(served, 4, 0.0) + admitted(served, 20, 30.0) == 10
    denial = served.admit("m", 0, 50.0, NOON)
    assert denial is not None
    assert denial.wait == 10.0
    assert admitted(served, 20, 60.0) == 4


@given(st.integers(1, 50), st.lists(st.floats(0, 30), min_size=1, max_size=100))
def test_no_sixty_seconds_of_a_sliding_minute_hold_more_than_its_limit(limit: int, steps: list[float]) -> None:
    minute = SlidingMinute(limit)
    now, taken = 0.0, []
    for step in steps:
        now += step
        for _ in range(5):
            if minute.wait(1, now) == 0.0:
                minute.take(1, now)
                taken.append(now)
        assert sum(at > now - 60 for at in taken) <= limit


@given(st.sampled_from(["fixed", "sliding"]), st.integers(1, 1000), st.integers(1, 1200), st.floats(0, 200))
def test_who_waits_as_long_as_told_is_let_in(window: str, limit: int, cost: int, now: float) -> None:
    minute = FixedMinute(limit, now) if window == "fixed" else SlidingMinute(limit)
    minute.take(limit // 2, now)
    minute.take(limit - limit // 2, now + 1)
    wait = minute.wait(cost, now + 2)
    assert (wait == math.inf) == (cost > limit)
    if wait != math.inf:
        assert minute.wait(cost, now + 2 + wait + 1e-6) == 0.0


@pytest.mark.parametrize("window", ["fixed", "sliding"])
def test_the_gauge_shows_what_is_left_of_the_minute(window: str) -> None:
    served = pool(rpm=10, window=window)
    admitted(served, 3, 10.0)
    gauge = served.standing("m", 20.0).requests
    assert gauge is not None
    assert (gauge.limit, gauge.remaining) == (10, 7)
    assert gauge.reset == (40.0 if window == "fixed" else 50.0)


@pytest.mark.parametrize("window", ["bucket", "fixed", "sliding"])
def test_a_refused_call_uses_up_a_request_where_that_is_said(window: str) -> None:
    for counts, left in ((True, 5), (False, 10)):
        served = pool(rpm=10, window=window, burst_seconds=60, refusals_count=counts)
        for _ in range(5):
            served.charge_refusal("m", 0.0, not counts)
        assert admitted(served, 20, 0.0) == left
        served.charge_refusal("m", 0.0, not counts)  # never into debt
        gauge = served.standing("m", 0.0).requests
        assert gauge is not None
        assert gauge.remaining == 0


# What a call is charged


@pytest.mark.parametrize(
    ("counts", "charged"),
    [
        ("provider", (100, 0)),
        ("prompt", (40, 0)),
        ("max_tokens", (90, 0)),
        ("both", (130, 0)),
        ("usage", (40, 7)),
    ],
)
def test_tokens_are_counted_by_the_stated_rule_and_factor(counts: str, charged: tuple[int, int]) -> None:
    assert pool(counts=counts).charge(OWN, 40, 7, 90) == charged
    assert pool(counts=counts, count_factor=1.3).charge(OWN, 40, 7, 90) == tuple(math.ceil(n * 1.3) for n in charged)


def test_a_call_without_a_bound_is_charged_its_real_output() -> None:
    assert pool(counts="both").charge(OWN, 40, 7, None) == (47, 0)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_prompt_and_max_tokens_are_charged_over_the_wire(play: Play, provider: str) -> None:
    bound = {"generationConfig": {"maxOutputTokens": 500}} if provider == "gemini" else {"max_tokens": 500}
    played = play(accounts=[account(provider, tpm=1200, window="sliding", counts="both")])
    codes = [played.ask(provider, **bound).status_code for _ in range(3)]
    assert codes == [200, 200, 429]
    assert played.row()["limit"] == "tokens"


# What is claimed and what is enforced


def test_half_of_a_limit_is_enforced_while_headers_claim_all_of_it(play: Play) -> None:
    played = play(accounts=[account("openai", rpm=8, window="sliding", enforced=0.5)])
    answers = [played.ask("openai") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "8"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "6"
    assert "Limit 8" in answers[-1].text


def test_wrong_headers_claim_twice_the_limit_and_all_of_it_left(play: Play) -> None:
    played = play(accounts=[account("openai", rpm=6, headers="wrong")])
    played.ask("openai")
    answer = played.ask("openai")
    assert answer.status_code == 429
    assert answer.headers["x-ratelimit-limit-requests"] == "12"
    assert answer.headers["x-ratelimit-remaining-requests"] == "12"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_headers_can_be_absent(play: Play, provider: str) -> None:
    answer = play(accounts=[account(provider, rpm=6, tpm=600_000, headers="none")]).ask(provider)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if "ratelimit" in name]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("said", "shown"), [("none", None), (0, 0.0), (7, 7.0)])
def test_a_429_states_the_wait_that_it_is_told_to(
    play: Play, provider: str, said: str | int, shown: float | None
) -> None:
    played = play(accounts=[account(provider, rpm=1, retry_after=said)])
    played.ask(provider)
    answer = played.ask(provider)
    assert answer.status_code == 429
    if provider == "gemini":
        details = {one["@type"].rpartition(".")[2]: one for one in answer.json()["error"]["details"]}
        info = details.get("RetryInfo")
        assert (None if info is None else float(info["retryDelay"].removesuffix("s"))) == shown
    else:
        header = answer.headers.get("retry-after")
        assert (None if header is None else float(header)) == shown
    if shown is None:
        assert "again in" not in answer.text


# Calls at once


def at_once(played: Played, provider: str, calls: int) -> list[int]:
    codes: list[int] = []

    def ask() -> None:
        codes.append(played.ask(provider).status_code)

    threads = [threading.Thread(target=ask) for _ in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return sorted(codes)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_only_so_many_calls_are_taken_at_once(play: Play, provider: str) -> None:
    played = play(accounts=[account(provider, concurrent=2)], faults=[{"kind": "hang"}])
    held = [played.raw(played.request(provider)) for _ in range(2)]
    deadline = time.monotonic() + 30
    while len(played.rows()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    answer = played.ask(provider)
    assert answer.status_code == 429
    assert "concurren" in answer.text.lower()
    assert played.row()["limit"] == "concurrent"
    for sock in held:
        sock.close()
    played.faults()
    deadline = time.monotonic() + 30
    while (code := played.ask(provider).status_code) != 200:  # their places are free once they are gone
        assert code == 429
        assert time.monotonic() < deadline


def test_a_place_is_free_after_a_reply_of_any_kind(play: Play) -> None:
    played = play(accounts=[account("openai", concurrent=1)])
    played.faults({"kind": "overloaded", "times": 1}, {"kind": "rubbish", "times": 1}, {"kind": "no_done", "times": 1})
    codes = [played.ask("openai", streamed=streamed).status_code for streamed in (False, False, True, False, True)]
    assert codes == [503, 200, 200, 200, 200]


def test_a_model_has_places_of_its_own() -> None:
    served = pool(concurrent=2, models={"big": {"concurrent": 1}})
    assert (admitted(served, 5, model="big"), admitted(served, 5, model="small")) == (1, 2)
    served.leave("big")
    assert (admitted(served, 5, model="big"), admitted(served, 5, model="small")) == (1, 0)


# Days


@pytest.mark.parametrize("provider", PROVIDERS)
def test_tokens_a_day_have_a_limit_too(play: Play, provider: str) -> None:
    played = play(accounts=[account(provider, tpd=700, counts="both")])
    bound = {"generationConfig": {"maxOutputTokens": 500}} if provider == "gemini" else {"max_tokens": 500}
    answers = [played.ask(provider, **bound) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert {"openai": "tokens per day (TPD)", "gemini": "PerDay", "claude": "tokens per day"}[provider] in answers[
        1
    ].text
    assert played.row()["limit"] == "day_tokens"


def test_a_model_has_a_day_of_its_own() -> None:
    served = pool(rpd=3, models={"big": {"rpd": 1}})
    assert (admitted(served, 5, model="big"), admitted(served, 5, model="small")) == (1, 3)


# Latency


def test_latency_grows_with_the_calls_in_flight(play: Play) -> None:
    played = play(latency=0.0, load={"above": 2, "latency": 0.5})
    house = played.box.house
    assert [played.ask("openai").status_code for _ in range(2)] == [200, 200]
    # a call is counted until its connection is done with, a moment after its reply
    wait_for(lambda: house.in_flight == 0, "the calls to end")
    house.in_flight = 2
    assert house.latency() == 0.0
    house.in_flight = 3
    assert house.latency() == 0.5
    house.in_flight = 0
    assert at_once(played, "openai", 4) == [200] * 4
    wait_for(lambda: house.in_flight == 0, "the calls to end")


def test_each_call_beyond_may_add_to_the_latency(play: Play) -> None:
    house = play(latency=0.2, load={"above": 10, "growth": 0.1}).box.house
    house.in_flight = 15
    assert house.latency() == pytest.approx(0.7)


# Settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": "rolling"},
        {"counts": "words"},
        {"enforced": 0},
        {"enforced": 2},
        {"count_factor": 0},
        {"headers": True},
        {"retry_after": -1},
        {"concurrent": 0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SandboxSettings.model_validate({"limits": wrong})


def test_an_account_hands_all_its_limits_on() -> None:
    given_ = {
        "rpm": 1,
        "tpd": 5,
        "concurrent": 3,
        "window": "fixed",
        "counts": "both",
        "enforced": 0.5,
        "headers": "none",
    }
    made = Account.model_validate(account("openai", **given_)).limits()
    assert {name: getattr(made, name) for name in given_} == given_
