"""Waits that replies state: every form, none of them longer than is believed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.signals import Wait
from worker.limits.shapes import BELIEVED_SECONDS
from worker.providers.base import Reply
from worker.providers.waits import date_in_words, duration, moment, stated_wait, wait_in_words

NOW = 1795377600.0  # Sun, 22 Nov 2026 20:00:00 GMT
DATE = {"date": "Sun, 22 Nov 2026 20:00:00 GMT"}
DAY = 86400.0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7s"}, 7),
        ({"retry-after": "1m30s"}, 90),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "Sun, 22 Nov 2026 20:00:30 GMT"}, 30),
        ({"retry-after": "2026-11-22T20:01:00Z"}, 60),
        ({"retry-after": "2026-11-22T20:01:00"}, 60),
        ({"retry-after": "1795377650"}, 50),
        ({"retry-after": "1795377650000"}, 50),
        ({"retry-after": "1700000000"}, 0),
        ({"retry-after": "86400"}, DAY),
        ({"retry-after": "90000"}, 90000),
        ({"retry-after": "90001"}, DAY),
        ({"retry-after": "Thu, 01 Jan 2099 00:00:00 GMT"}, DAY),
        ({"retry-after": "4070908800"}, DAY),
        ({"retry-after-ms": "504641000"}, DAY),
        ({"retry-after-ms": "2500", "retry-after": "60"}, 2.5),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3s"}, 3),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1795377609000"}, 9),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "12"}, 12),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-22T20:00:42Z",
            },
            42,
        ),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "12"}, None),
    ],
)
def test_a_header_states_a_wait(headers: dict[str, str], wait: float | None) -> None:
    assert stated_wait(Reply(429, {**DATE, **headers}, b""), None, "", exhausted=True) == wait


@pytest.mark.parametrize(
    ("body", "wait"),
    [
        ({"error": {"retry_after": 6}}, 6),
        ({"retry_after_seconds": "6.5"}, 6.5),
        ({"error": {"retry_after_ms": 1500}}, 1.5),
        ({"error": {"metadata": {"retry_after_seconds": 8}}}, 8),
        ({"error": {"details": [{"@type": "x"}, {"retryDelay": "45.5s"}]}}, 45.5),
        ({"error": "Model is loading", "estimated_time": 20.0}, 20),
        ({"error": {"metadata": {"headers": {"Retry-After": "9"}}}}, 9),
        ({"error": {"retry_after": 10**12}}, DAY),
        ({"error": {"retry_after": "never"}}, None),
    ],
)
def test_a_field_of_the_body_states_a_wait(body: Any, wait: float | None) -> None:
    assert stated_wait(Reply(429, DATE, orjson.dumps(body)), body, "", exhausted=False) == wait


@pytest.mark.parametrize(
    ("message", "wait"),
    [
        ("Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000. Please try again in 7s. Visit …", 7),
        ("Try again in 6 seconds.", 6),
        ("Please try again in 1m30.5s.", 90.5),
        ("Please try again in 120ms.", 0.12),
        ("please try again after 1 seconds", 1),
        ("Please retry after 26 seconds. To increase your default rate limit visit …", 26),
        ("Please wait 30411 seconds before retrying.", 30411),
        ("Please retry in 45.57s.", 45.57),
        ("Retry your request after 2 minutes", 120),
        ("limit resets in 1 hour and 5 minutes", 3900),
        ("Try again in 3 days", 3 * DAY),
        ("请在 30 秒后重试", 30),
        ("Limit resets at: 2026-11-22 20:00:30 UTC", 30),
        ("Your limit will reset at 2026-11-22T20:01:00+00:00", 60),
        ("You will regain access on 2026-11-23 at 00:00 UTC", 4 * 3600),
        ("You have exceeded your daily request limit. Resets at 00:30 UTC", 4.5 * 3600),
        ("resets at 25:00 UTC", None),
        ("available again until 2026-11-21", 0),
        ("60 requests per 60 seconds are allowed", None),
        ("Please try again later", None),
        ("reset at 2026-13-99 25:00", None),
        ("", None),
    ],
)
def test_words_state_a_wait(message: str, wait: float | None) -> None:
    found = wait_in_words(message, NOW)
    assert found == (None if wait is None else pytest.approx(wait))


def test_a_date_without_a_zone_is_read_in_the_vendors_own_and_none_is_endless() -> None:
    assert date_in_words("Your limit will reset at 2026-11-23 06:00:00", NOW, hours_east=8) == 7200
    assert date_in_words("resets at 2099-01-01", NOW) == 40 * DAY


def test_a_wait_until_midnight_or_the_month_ends_in_its_zone() -> None:
    assert Wait(until="midnight").from_time(NOW) == 4 * 3600
    assert Wait(until="midnight", zone="America/Los_Angeles").from_time(NOW) == 12 * 3600
    assert Wait(until="month").from_time(NOW) == 705600
    assert Wait(seconds=5).from_time(NOW) == 5


@given(st.text(max_size=40) | st.integers() | st.floats() | st.none() | st.booleans())
@example("9" * 400)
@example("1e308")
def test_any_value_is_a_wait_that_is_believed_or_none(value: Any) -> None:
    for found in (moment(value, NOW), duration(value)):
        assert found is None or found >= 0
    wait = stated_wait(Reply(429, {**DATE, "retry-after": str(value)}, b""), {"retry_after": value}, "", exhausted=True)
    assert wait is None or 0 <= wait <= BELIEVED_SECONDS


@given(st.text(max_size=200))
def test_any_words_are_a_wait_or_none(message: str) -> None:
    found = wait_in_words(message, NOW)
    assert found is None or found >= 0
