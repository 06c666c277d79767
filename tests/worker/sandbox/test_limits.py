"""Each provider's own limit rules, over the wire."""

import re
import time

import pytest

from tests.worker.sandbox.conftest import KEY, PROVIDERS, Play
from worker.sandbox.claude import Claude
from worker.sandbox.dialect import chat
from worker.sandbox.gemini import Gemini
from worker.sandbox.openai import OpenAI
from worker.sandbox.replies import Usage

OTHER = "sk-other-key-987654321"


def account(provider: str, **limits: object) -> dict[str, object]:
    return {"provider": provider, "key": KEY, **limits}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_request_over_rpm_is_a_429_in_its_own_words(play: Play, provider: str) -> None:
    played = play(accounts=[account(provider, rpm=1)])
    began = time.monotonic()
    assert played.ask(provider).status_code == 200
    answer = played.ask(provider)
    least = 59.9 - (time.monotonic() - began)
    assert answer.status_code == 429
    error = answer.json()["error"]
    if provider == "openai":
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert least - 1 <= int(answer.headers["retry-after"]) <= 60
        assert least * 1000 <= int(answer.headers["retry-after-ms"]) <= 60_000
    elif provider == "claude":
        assert error["type"] == "rate_limit_error"
        assert least - 1 <= int(answer.headers["retry-after"]) <= 60
    else:
        assert error["status"] == "RESOURCE_EXHAUSTED"
        details = {detail["@type"].rpartition(".")[2]: detail for detail in error["details"]}
        assert least <= float(details["RetryInfo"]["retryDelay"].removesuffix("s")) <= 60
        assert "PerMinute" in details["QuotaFailure"]["violations"][0]["quotaId"]
        assert "retry-after" not in answer.headers
    row = played.row()
    assert (row["status"], row["limited"], row["billed"], row["output_tokens"]) == (429, True, False, 0)


def test_openai_charges_max_tokens_or_the_estimate_whichever_is_more(play: Play) -> None:
    played = play(accounts=[account("openai", tpm=1000, burst_seconds=60)])  # holds 1,000 tokens
    played.ask("openai", "x", max_tokens=600)
    first = int(played.ask("openai", "x" * 800, max_tokens=1).headers["x-ratelimit-remaining-tokens"])
    assert 200 <= first <= 1000 - 600 - 200 + 300  # 600 and 200 taken, and a little time passed
    assert played.ask("openai", max_tokens=1000).status_code == 429


def test_openai_sends_its_gauges_with_every_answer_to_a_known_key(play: Play) -> None:
    played = play(accounts=[account("openai", rpm=600, tpm=6000)])
    for answer in (played.ask("openai"), played.ask("openai", foo=1), played.ask("openai", model="missing-x")):
        assert answer.headers["x-ratelimit-limit-requests"] == "600"
        assert answer.headers["x-ratelimit-limit-tokens"] == "6000"
        assert re.fullmatch(r"\d+ms|[\d.]+s", answer.headers["x-ratelimit-reset-requests"])


def test_openai_counts_requests_that_fail(play: Play) -> None:
    played = play(accounts=[account("openai", rpm=6)])
    assert played.ask("openai", foo=1).status_code == 400
    assert played.ask("openai").status_code == 429


@pytest.mark.parametrize("provider", ["gemini", "claude"])
def test_the_others_do_not_count_requests_that_are_wrong(play: Play, provider: str) -> None:
    played = play(accounts=[account(provider, rpm=6)])
    assert played.ask(provider, foo=1).status_code == 400
    assert played.ask(provider).status_code == 200


def test_gemini_counts_input_only(play: Play) -> None:
    played = play(accounts=[account("gemini", tpm=60, burst_seconds=100)], output_tokens=5000)  # holds 100
    config = {"maxOutputTokens": 8000}
    assert played.ask("gemini", "x" * 200, generationConfig=config).status_code == 200  # 54 tokens
    assert played.ask("gemini", "x" * 100, generationConfig=config).status_code == 200  # 29
    answer = played.ask("gemini", "x" * 200, generationConfig=config)
    assert answer.status_code == 429
    assert "InputTokens" in answer.json()["error"]["details"][0]["violations"][0]["quotaId"]


def test_claude_books_output_as_produced_and_not_max_tokens(play: Play) -> None:
    played = play(accounts=[account("claude", tpm=600, burst_seconds=100)], output_tokens=2000)  # 1,000
    answer = played.ask("claude", max_tokens=50_000)
    assert answer.status_code == 200
    assert played.ask("claude", max_tokens=1).status_code == 429  # 2,000 produced: in debt by about 1,000


def test_claude_shows_its_gauges(play: Play) -> None:
    answer = play(accounts=[account("claude", rpm=6, tpm=600_000)]).ask("claude")
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "6"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert answer.headers["anthropic-ratelimit-input-tokens-remaining"] == "9000"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.headers["anthropic-ratelimit-tokens-reset"])


def test_what_is_booked_at_arrival_and_at_the_end_is_each_providers_own_rule() -> None:
    asked = chat("m", ["x" * 400], 50)
    usage = Usage(input=104, output=30, cached=40, cache_write=20, reasoning=10)
    assert OpenAI().charge(asked, usage) == (100, 0)
    assert OpenAI().charge(chat("m", ["x"], 50), usage) == (50, 0)
    assert Gemini().charge(asked, usage) == (104, 0)
    assert Claude().charge(asked, usage) == (64, 30)  # cache reads are free


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_request_over_a_whole_minutes_tokens_never_gets_in_and_no_wait_is_promised(play: Play, provider: str) -> None:
    played = play(accounts=[account(provider, tpm=100)])
    answer = played.ask(provider, "x" * 4000)
    assert answer.status_code == 429
    assert "retry-after" not in answer.headers
    assert "RetryInfo" not in answer.text
    if provider == "openai":
        assert answer.json()["error"]["message"].startswith("Request too large for m-1")
        assert answer.json()["error"]["type"] == "tokens"


def test_a_request_larger_than_the_burst_gets_in_on_credit(play: Play) -> None:
    played = play(accounts=[account("openai", tpm=6000)])  # holds 100 tokens
    assert played.ask("openai", max_tokens=5000).status_code == 200
    assert played.ask("openai", max_tokens=1).status_code == 429


def test_two_keys_of_a_pool_share_its_limit_and_a_third_does_not(play: Play) -> None:
    played = play(
        accounts=[
            account("openai", pool="org", rpm=6),
            {"provider": "openai", "key": OTHER, "pool": "org"},
            {"provider": "openai", "key": OTHER + "-3", "rpm": 6},
        ]
    )
    assert [played.ask("openai", key=key).status_code for key in (KEY, OTHER, OTHER + "-3")] == [200, 429, 200]


def test_any_key_is_accepted_without_accounts_and_has_limits_of_its_own(play: Play) -> None:
    played = play(limits={"rpm": 6})
    assert [played.ask("openai", key=key).status_code for key in (KEY, KEY, OTHER)] == [200, 429, 200]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_day_has_a_limit_too(play: Play, provider: str) -> None:
    played = play(accounts=[account(provider, rpd=2)])
    answers = [played.ask(provider) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert {"openai": "per day (RPD)", "gemini": "PerDay", "claude": "per day"}[provider] in answers[-1].text


def test_a_model_can_have_limits_of_its_own(play: Play) -> None:
    played = play(accounts=[account("openai", rpm=6000, models={"slow": {"rpm": 6}})])
    assert [played.ask("openai", model=model).status_code for model in ("slow", "slow", "m-1")] == [200, 429, 200]


def test_models_are_listed_even_at_the_limit(play: Play) -> None:
    played = play(accounts=[account("openai", rpm=6)])
    played.ask("openai")
    headers = {"authorization": f"Bearer {KEY}"}
    assert played.client.get(f"{played.box.url}/openai/v1/models", headers=headers).status_code == 200
