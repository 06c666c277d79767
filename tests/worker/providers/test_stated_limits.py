"""The limits that replies state: headers in the forms of a dozen vendors, refusals in their words, and nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import ProviderConfig
from models.request import Failure, FailureScope, Request, Response, StatedLimit
from worker.providers.answers import Answer
from worker.providers.base import Call, Provider, Reply
from worker.providers.openai import OpenAI
from worker.providers.plugin import JsonProvider, Wanted
from worker.providers.registry import make_provider
from worker.providers.stated_limits import DAY, HOUR, LARGEST, MINUTE, stated_by, stated_in_headers, stated_in_refusal

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


def by_gauge(headers: dict[str, str]) -> dict[str, StatedLimit]:
    found = stated_in_headers(headers, NOW)
    assert len({one.gauge for one in found}) == len(found)
    return {one.gauge: one for one in found}


def refused(message: str, *, body: Any = None, scope: FailureScope | None = None) -> StatedLimit:
    (found,) = stated_in_refusal(body, message, scope)
    assert found.exceeded
    return found


# Headers

OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-requests": "120ms",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": "29500",
    "x-ratelimit-reset-tokens": "1s",
    "x-ratelimit-limit-project-tokens": "20000",
    "x-ratelimit-remaining-project-tokens": "19000",
    "x-ratelimit-reset-project-tokens": "3s",
    "x-request-id": "req_1",
}


def test_requests_tokens_and_a_projects_tokens_are_gauges_of_their_own():
    found = by_gauge(OPENAI)
    assert found["requests"] == StatedLimit("requests", 500, 499, 0.12, MINUTE, gauge="requests")
    assert found["tokens"] == StatedLimit("tokens", 30000, 29500, 1.0, MINUTE, gauge="tokens")
    assert found["project-tokens"].scope == "account"
    assert found["project-tokens"].limit == 20000


@pytest.mark.parametrize(
    ("headers", "window"),
    [
        # OpenAI's small tiers: one request of 10,000 a day comes back in 8.64 s
        ({"limit": "10000", "remaining": "9999", "reset": "8.64s"}, DAY),
        ({"limit": "200", "remaining": "199", "reset": "7m12s"}, DAY),
        ({"limit": "14400", "remaining": "14370", "reset": "2m59.56s"}, DAY),
        ({"limit": "10000", "remaining": "0", "reset": "6h0m0s"}, DAY),
        ({"limit": "60", "remaining": "59", "reset": "1s"}, MINUTE),
        ({"limit": "300", "remaining": "299", "reset": "45s"}, MINUTE),  # a fixed minute
        ({"limit": "300", "remaining": "0", "reset": "1m20s"}, MINUTE),  # a bucket in debt
        ({"limit": "300", "remaining": "150"}, MINUTE),
        ({"limit": "100", "remaining": "50", "reset": "30m0s"}, HOUR),
        ({"limit": "100", "remaining": "50", "reset": "5m0s"}, None),
        ({"limit": "100", "remaining": "50", "reset": "30d"}, None),
    ],
)
def test_the_window_of_a_name_without_one_follows_from_the_refill(headers, window):
    (found,) = stated_in_headers({f"x-ratelimit-{name}-requests": value for name, value in headers.items()}, NOW)
    assert found.window == window


def test_groqs_requests_are_a_days_and_its_tokens_a_minutes():
    found = by_gauge(
        {
            "x-groq-region": "us-west",
            "x-ratelimit-limit-requests": "1000",
            "x-ratelimit-remaining-requests": "998",
            "x-ratelimit-reset-requests": "1m0s",
            "x-ratelimit-limit-tokens": "12000",
            "x-ratelimit-remaining-tokens": "11970",
            "x-ratelimit-reset-tokens": "150ms",
        }
    )
    assert (found["requests"].window, found["tokens"].window) == (DAY, MINUTE)


def test_names_that_state_the_window_are_taken_at_their_word():
    cerebras = {
        "x-ratelimit-limit-requests-day": "14400",
        "x-ratelimit-remaining-requests-day": "14399",
        "x-ratelimit-reset-requests-day": "33011.382867",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "59000",
        "x-ratelimit-reset-tokens-minute": "11.38",
    }
    found = by_gauge(cerebras)
    assert found["requests-day"] == StatedLimit("requests", 14400, 14399, 33011.382867, DAY, gauge="requests-day")
    assert found["tokens-minute"] == StatedLimit("tokens", 60000, 59000, 11.38, MINUTE, gauge="tokens-minute")
    kong = by_gauge({"x-ratelimit-limit-hour": "100", "x-ratelimit-remaining-hour": "99"})
    assert kong["requests-hour"].window == HOUR


def test_mistral_states_what_the_call_cost_and_a_limit_of_zero_is_none():
    headers = {
        "x-ratelimit-limit-req-minute": "0",
        "x-ratelimit-remaining-req-minute": "0",
        "x-ratelimit-limit-tokens-minute": "50000",
        "x-ratelimit-remaining-tokens-minute": "49962",
        "x-ratelimit-tokens-query-cost": "38",
    }
    (found,) = stated_in_headers(headers, NOW)
    assert (found.unit, found.limit, found.remaining, found.requested) == ("tokens", 50000, 49962, 38)
    by_size = {"ratelimitbysize-limit": "500000", "ratelimitbysize-remaining": "499000", "ratelimitbysize-reset": "32"}
    (found,) = stated_in_headers({**by_size, "ratelimitbysize-query-cost": "32"}, NOW)
    assert (found.unit, found.limit, found.reset, found.requested) == ("tokens", 500000, 32, 32)


def test_together_counts_by_the_second():
    found = by_gauge(
        {
            "x-ratelimit-limit": "10",
            "x-ratelimit-remaining": "9",
            "x-ratelimit-reset": "0.1",
            "x-tokenlimit-limit": "3000",
            "x-tokenlimit-remaining": "2900",
            "x-ratelimit-limit-dynamic": "40",
        }
    )
    assert {(one.unit, one.limit, one.window) for one in found.values()} == {
        ("requests", 10, 1.0),
        ("tokens", 3000, 1.0),
        ("requests", 40, 1.0),
    }


def test_openrouters_reset_is_a_unix_time_in_milliseconds():
    reset = str(int((NOW + 5 * 3600) * 1000))
    (found,) = stated_in_headers(
        {"x-ratelimit-limit": "50", "x-ratelimit-remaining": "0", "x-ratelimit-reset": reset}, NOW
    )
    assert (found.unit, found.limit, found.remaining, found.reset, found.window) == ("requests", 50, 0, 18000, DAY)


def test_anthropics_resets_are_dates_and_its_other_tiers_are_left_out():
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-09-21T14:13:21Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "38000",
        "anthropic-ratelimit-input-tokens-reset": "2026-09-21T14:13:23Z",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        "anthropic-ratelimit-output-tokens-reset": "2026-09-21T14:13:20Z",
        "anthropic-ratelimit-tokens-limit": "48000",
        "anthropic-ratelimit-tokens-remaining": "46000",
        "anthropic-ratelimit-tokens-reset": "2026-09-21T14:13:23Z",
        "anthropic-priority-input-tokens-limit": "9",
        "anthropic-priority-input-tokens-remaining": "9",
        "anthropic-ratelimit-unified-5h-utilization": "0.5",
        "anthropic-fast-input-tokens-limit": "7",
    }
    found = by_gauge(headers)
    assert sorted(found) == ["input-tokens", "output-tokens", "requests", "tokens"]
    assert found["input-tokens"] == StatedLimit("input_tokens", 40000, 38000, 3.0, MINUTE, gauge="input-tokens")
    assert found["output-tokens"].unit == "output_tokens"


@pytest.mark.parametrize(
    "headers",
    [
        {"ratelimit": '"burst";r=50;t=30', "ratelimit-policy": '"burst";q=100;w=60'},
        {"ratelimit": "limit=100, remaining=50, reset=30", "ratelimit-policy": "100;w=60"},
        {"ratelimit": '"burst"; r=50; t=30', "ratelimit-policy": '"burst"; q=100; w=60; qu="requests"; pk=:Zm9v:'},
    ],
)
def test_every_draft_of_the_ietfs_headers_is_read(headers):
    (found,) = stated_in_headers(headers, NOW)
    assert (found.unit, found.limit, found.remaining, found.reset, found.window) == ("requests", 100, 50, 30, 60)


def test_the_ietfs_older_headers_and_its_units():
    (old,) = stated_in_headers(
        {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50", "ratelimit-reset": "30"}, NOW
    )
    assert (old.unit, old.limit, old.remaining, old.reset, old.window) == ("requests", 100, 50, 30, 60)
    both = stated_in_headers(
        {"ratelimit-policy": '"rate";q=100;w=60, "calls";q=8;qu="concurrent-requests", "size";q=9;qu="content-bytes"'},
        NOW,
    )
    assert {(one.unit, one.limit, one.window) for one in both} == {("requests", 100, 60), ("concurrent", 8, None)}


def test_gateways_of_tokens_name_their_instances():
    (found,) = stated_in_headers(
        {"x-ai-ratelimit-limit-openai-main": "500", "x-ai-ratelimit-remaining-openai-main": "480"}, NOW
    )
    assert (found.unit, found.limit, found.remaining) == ("tokens", 500, 480)


def test_limits_of_other_things_are_none():
    assert not stated_in_headers(
        {
            "x-ratelimit-limit-images": "5",
            "x-ratelimit-remaining-audio-seconds": "7",
            "x-upload-limit-bytes": "7",
            "retry-after": "3",
            "x-ratelimit-reset": "30",
        },
        NOW,
    )


@pytest.mark.parametrize(
    "value", ["0", "-5", "nan", "inf", "1e99", "9223372036854775807", "many", "", "٣", "0x10", "\0", "5" * 400]
)
def test_a_limit_that_cannot_be_one_is_left_out(value):
    assert not stated_in_headers({"x-ratelimit-limit-tokens": value, "x-ratelimit-reset-tokens": "1s"}, NOW)
    headers = {"x-ratelimit-limit-tokens": value, "x-ratelimit-remaining-tokens": "5"}
    assert all(one.limit is None for one in stated_in_headers(headers, NOW))


# Refusals


@pytest.mark.parametrize(
    ("message", "unit", "window", "limit", "used", "requested"),
    [
        (
            "Rate limit reached for gpt-4o in organization org-1 on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please "
            "try again in 644ms.",
            *("tokens", MINUTE, 30000, 29937, 385),
        ),
        (
            "Rate limit reached for gpt-4o in organization org-1 on requests per day (RPD): Limit 10,000, Used 10,000, Requested 1.",
            *("requests", DAY, 10000, 10000, 1),
        ),
        (
            "Request too large for gpt-5 in organization org-1 on tokens per min (TPM): Limit 30000, Requested 36055. The input or output tokens "
            "must be reduced",
            *("tokens", MINUTE, 30000, None, 36055),
        ),
        (
            "Rate limit reached for model `llama3-70b-8192` in organization `org_1` on tokens per day (TPD): Limit 500000, Used 499500, "
            "Requested ~9023. Please try again in 30.2s.",
            *("tokens", DAY, 500000, 499500, 9023),
        ),
        (
            "Rate limit reached for 10KTPM-200RPM in organization org-1 on tokens per min. Limit: 10000 / min. Please try again in 6ms.",
            *("tokens", MINUTE, 10000, None, None),
        ),
        (
            "This request would exceed the rate limit for your organization of 20,000 input tokens per minute. For details, refer to: …",
            *("input_tokens", MINUTE, 20000, None, None),
        ),
        (
            "This request would exceed your organization's rate limit of 5 requests per minute (model: claude-x).",
            *("requests", MINUTE, 5, None, None),
        ),
        (
            "This would exceed your rate limit of 8,000 output tokens per minute",
            "output_tokens",
            MINUTE,
            8000,
            None,
            None,
        ),
        (
            "Your account org-1 request reached organization max RPM: 3, please try again after 1 seconds",
            "requests",
            MINUTE,
            3,
            None,
            None,
        ),
        (
            "Your account org-1 request reached organization TPM rate limit, current:32100, limit:32000",
            "tokens",
            MINUTE,
            32000,
            32100,
            None,
        ),
        ("You are using a Trial key, which is limited to 20 API calls / minute.", "requests", MINUTE, 20, None, None),
        ("Exceeded workspace output tokens per minute rate limit for m", "output_tokens", MINUTE, None, None, None),
        ("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock more", "requests", DAY, None, None, None),
        ("Rate limit exceeded: limit 20 requests/min", "requests", MINUTE, 20, None, None),
        (
            "Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project_per_base_model with base model: g",
            *("requests", MINUTE, None, None, None),
        ),
        (
            "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-02-01 have exceeded token rate limit of "
            "your current OpenAI S0 pricing tier. Please retry after 60 seconds.",
            *("tokens", None, None, None, None),
        ),
        (
            "Requests to the Embeddings_Create Operation have exceeded call rate limit of your tier.",
            "requests",
            None,
            None,
            None,
            None,
        ),
        ("Too many tokens, please wait before trying again.", "tokens", None, None, None, None),
        (
            "You have exceeded the maximum number of tokens allowed within a given time frame.",
            "tokens",
            None,
            None,
            None,
            None,
        ),
        ("Number of requests has exceeded your rate limit", "requests", None, None, None, None),
        (
            "Max parallel request limit reached Hit limit for api_key: 3ec. tpm_limit: 200, current_tpm 80 , rpm_limit: 4 current rpm 4,",
            *("requests", MINUTE, 4, None, None),
        ),
        (
            "Rate limit exceeded for api_key: 3ec. Limit type: tokens. Current limit: 1000, Remaining: -20. Limit resets at: 2026-09-29",
            *("tokens", MINUTE, 1000, None, None),
        ),
    ],
)
def test_rates_in_words(message, unit, window, limit, used, requested):
    found = refused(message)
    assert (found.unit, found.window, found.limit) == (unit, window, limit)
    assert (found.used, found.requested) == (used, requested)


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("Your account org-1 request reached max organization concurrency: 1, please try again after 1 seconds", 1),
        ("Number of concurrent connections has exceeded your rate limit. Please try again later.", None),
        ("Rate limit exceeded for api_key: 3ec. Limit type: max_parallel_requests. Current limit: 4, Remaining: 0.", 4),
        ("Max parallel request limit reached. Hit limit for api_key: 7f3c. active requests: 8.", None),
        ("Too many concurrent requests. Limit: 1 concurrent requests", 1),
        ("Too many concurrent requests for this model", None),
        ("You exceeded your current threshold of concurrent requests", None),
        ("maximum of 4 simultaneous requests", 4),
        ("exceeded the limit of 16 requests in flight", 16),
        ("High concurrency usage of this API, please reduce concurrency or contact customer service", None),
        ("您当前使用该API的并发数过高，请降低并发", None),
        ("Too many requests; please reduce your concurrency", None),
        ("Quota exceeded for online_prediction_concurrent_requests_per_base_model", None),
    ],
)
def test_calls_in_flight_in_words(message, limit):
    found = refused(message)
    assert (found.unit, found.limit, found.window) == ("concurrent", limit, None)


def test_advice_to_lower_concurrency_does_not_make_a_rate_a_limit_of_calls_in_flight():
    found = refused("Rate limit of 60 requests per minute reached. Try to lower your concurrency.")
    assert (found.unit, found.limit) == ("requests", 60)


@pytest.mark.parametrize(
    ("body", "unit", "window"),
    [
        ({"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}, "tokens", None),
        ({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}, "requests", None),
        ({"error": {"code": "RateLimitExceeded.EndpointTPMExceeded", "message": "slow down"}}, "tokens", MINUTE),
        ({"error": {"code": "ModelAccountRpmRateLimitExceeded", "message": "slow down"}}, "requests", MINUTE),
        ({"error": {"code": "rpm_rate_limit_exceeded", "message": "slow down"}}, "requests", MINUTE),
        ({"error": {"code": "ConcurrencyLimitExceeded", "message": "slow down"}}, "concurrent", None),
        ({"code": "Throttling.AllocationQuota", "message": "slow down"}, "tokens", None),
    ],
)
def test_codes_name_the_limit_where_words_do_not(body, unit, window):
    found = refused("slow down", body=body)
    assert (found.unit, found.window) == (unit, window)


def violation(**fields: Any) -> dict[str, Any]:
    return {"error": {"code": 429, "details": [{"@type": "…/google.rpc.QuotaFailure", "violations": [fields]}]}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            violation(
                quotaMetric="generativelanguage.googleapis.com/generate_content_free_tier_requests",
                quotaId="GenerateRequestsPerDayPerProjectPerModel-FreeTier",
                quotaDimensions={"location": "global", "model": "gemini-x"},
                quotaValue="20",
            ),
            StatedLimit("requests", 20, window=DAY, exceeded=True, scope="model"),
        ),
        (
            violation(
                quotaMetric="generativelanguage.googleapis.com/generate_content_paid_tier_input_token_count",
                quotaId="GenerateContentPaidTierInputTokensPerModelPerMinute",
                quotaValue="1000000",
            ),
            StatedLimit("input_tokens", 1_000_000, window=MINUTE, exceeded=True, scope="model"),
        ),
        (
            violation(quotaId="GenerateRequestsPerMinutePerProject", quotaValue="0"),
            StatedLimit("requests", None, window=MINUTE, exceeded=True, scope="account"),
        ),
    ],
)
def test_googles_violations(body, expected):
    assert stated_in_refusal(body, "You exceeded your current quota", None) == (expected,)
    assert stated_in_refusal([body], "You exceeded your current quota", None) == (expected,)


def test_words_that_name_nothing_leave_it_to_what_is_used_up():
    assert stated_in_refusal({}, "Too Many Requests", None) == ()
    headers = {**OPENAI, "x-ratelimit-remaining-tokens": "0"}
    found = stated_by(headers, NOW, message="Too Many Requests", scope=FailureScope.MODEL, refused=True)
    assert [(one.gauge, one.scope) for one in found if one.exceeded] == [("tokens", "model")]
    assert len(found) == 3
    both = {**headers, "x-ratelimit-remaining-requests": "0"}
    assert not [one for one in stated_by(both, NOW, message="Too Many Requests", refused=True) if one.exceeded]


# Nonsense

TEXTS = st.text(max_size=60) | st.sampled_from(
    ["-1", "1e999", "nan", "100;w=60", '"a";q=1;w=-1', "limit=", '"', ";;,,==", "٣", "6m0s", "2026-99-99T00:00:00Z"]
)
NAMES = st.sampled_from(
    [
        *OPENAI,
        "ratelimit",
        "ratelimit-policy",
        "ratelimit-limit",
        "x-ratelimit-reset",
        "anthropic-ratelimit-tokens-reset",
        "x-ratelimit-",
    ]
) | st.text(max_size=40).map(lambda text: f"x-ratelimit-limit-{text}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "details", "violations", "quotaId", "quotaValue", "message", "code", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(st.dictionaries(NAMES, TEXTS, max_size=8), JSON, st.text(max_size=200), st.booleans())
def test_nonsense_never_raises_and_states_nothing_impossible(headers, body, message, is_refused):
    for one in stated_by(headers, NOW, body=body, message=message, refused=is_refused):
        assert one.limit is None or 0 < one.limit <= LARGEST
        assert one.remaining is None or 0 <= one.remaining <= LARGEST
        assert one.reset is None or 0 <= one.reset < 1e8
        assert one.requested is None or 0 <= one.requested <= LARGEST
        assert one.window is None or one.window > 0


@given(
    st.lists(
        st.sampled_from(
            [
                "limit",
                "9",
                "requests",
                "per",
                "minute",
                "tokens",
                "concurrent",
                "rpm",
                ":",
                "=",
                "(",
                ",",
                "max",
                "of",
                "0",
            ]
        ),
        max_size=40,
    )
)
def test_words_in_any_order_are_read_in_no_time(words):
    stated_in_refusal(None, " ".join(words), None)


# The way to the worker


class Canned:
    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    async def send(self, call: Call) -> Reply:
        return self.reply


def provider(reply: Reply, **fields: Any) -> Provider:
    config = {"id": "openai", "keys": [{"id": "k", "secret": "sk-1234567890abcdef"}], **fields}
    return make_provider(ProviderConfig.model_validate(config), Canned(reply))


def generated(one: Provider) -> Response:
    return asyncio.run(one.generate(REQUEST))


REQUEST = Request("gpt-4o", {"messages": [{"role": "user", "content": "Hello"}]}, "sk-1234567890abcdef")
GOOD = {
    "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


def test_replies_carry_their_limits_only_where_limits_are_learned():
    reply = Reply(200, OPENAI, orjson.dumps(GOOD))
    assert generated(provider(reply, limits="fixed")).limits == ()
    learned = generated(provider(reply, limits="learn"))
    assert {one.gauge for one in learned.limits} == {"requests", "tokens", "project-tokens"}
    assert learned.failure is None


def test_a_refusal_carries_the_limit_that_it_is_about():
    error = {
        "message": "Rate limit reached for gpt-4o in organization o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
    reply = Reply(429, OPENAI, orjson.dumps({"error": error}))
    response = generated(provider(reply, limits="learn"))
    assert response.failure is not None
    assert response.failure.exceeded == StatedLimit(
        "tokens", 30000, window=MINUTE, used=29000, requested=2000, exceeded=True, scope="model"
    )
    assert len(response.limits) == 4
    plain = generated(provider(reply, limits="fixed"))
    assert plain.failure is not None
    assert plain.failure.exceeded is None


class Plugin(JsonProvider):
    """A vendor whose replies state a limit in their body."""

    def path(self, request: Request) -> str:
        return "/chat"

    def write_body(self, wanted: Wanted) -> dict[str, Any]:
        return {"model": wanted.model, "messages": wanted.messages()}

    def read_answer(self, body: dict[str, Any]) -> Answer:
        return Answer(text=body["text"], finish_reason="stop")


class Telling(Plugin):
    def stated_limits(self, reply: Reply, failure: Failure | None) -> Sequence[StatedLimit]:
        left = StatedLimit("concurrent", 8, gauge="seats")
        return [*super().stated_limits(reply, failure), left]


@pytest.mark.parametrize(("plugin", "gauges"), [(Plugin, ["requests"]), (Telling, ["requests", "seats"])])
def test_plugins_read_the_usual_headers_and_may_add_their_own(plugin, gauges):
    headers = {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "59"}
    reply = Reply(200, headers, orjson.dumps({"text": "Hi"}))
    config = {
        "id": "mine",
        "type": "mine",
        "base_url": "https://api.example.com/v1",
        "keys": [{"id": "k", "secret": "sk-1234567890abcdef"}],
        "limits": "learn",
    }
    response = generated(plugin(ProviderConfig.model_validate(config), Canned(reply)))
    assert (response.text, [one.gauge for one in response.limits]) == ("Hi", gauges)


def test_a_plugins_bug_in_reading_limits_loses_no_answer(monkeypatch):
    def broken(self, reply, failure):
        raise RuntimeError("a bug")

    monkeypatch.setattr(OpenAI, "stated_limits", broken)
    response = generated(provider(Reply(200, OPENAI, orjson.dumps(GOOD)), limits="learn"))
    assert (response.text, response.failure, response.limits) == ("Hi", None, ())
