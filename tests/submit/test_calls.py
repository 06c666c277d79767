"""A traced call as text for people."""

from __future__ import annotations

from typing import Any

import pytest

from submit.calls import MOST_SHOWN, as_text

CALL: dict[str, Any] = {
    "method": "POST",
    "url": "https://x.example/v1",
    "headers": {"authorization": "Bearer ***"},
    "body": {"ask": "hello"},
    "reply": {"status": 200, "headers": {}, "body": {"says": "Hi"}, "bytes": 14, "latency_ms": 5},
    "error": None,
}


def shown(**changes: Any) -> str:
    return as_text(
        {
            "batch_id": 3,
            "model": "m",
            "key": "k",
            "status": "succeeded",
            "text": "Hi",
            "finish_reason": "stop",
            "served_model": None,
            "input_tokens": 3,
            "output_tokens": 4,
            "cached_tokens": 1,
            "cost": 11_000,
            "currency": "USD",
            "latency_ms": 5,
            "error": None,
            "failure": None,
            "next": None,
            "raised": None,
            "calls": [CALL],
            **changes,
        }
    )


def test_an_answered_call_is_request_reply_answer_and_figures() -> None:
    text = shown()
    assert text.startswith(
        '> POST https://x.example/v1\n> authorization: Bearer ***\n>\n> {\n>   "ask": "hello"\n> }\n'
    )
    assert "< HTTP 200, 14 bytes in 5 ms" in text
    assert "answer:\nHi\n\nfinish reason stop\n3 tokens in (1 cached), 4 out, 0.000011 USD, 5 ms" in text
    assert text.endswith("batch 3, model m, key k\n")


def test_only_headers_of_interest_of_a_reply_are_shown() -> None:
    headers = {"retry-after": "7", "x-ratelimit-limit-requests": "9", "x-powered-by": "cats", "cf-cache-status": "no"}
    text = shown(calls=[{**CALL, "reply": {**CALL["reply"], "headers": headers}}])
    assert "< retry-after: 7" in text
    assert "< x-ratelimit-limit-requests: 9" in text
    assert "cats" not in text


def test_long_bodies_are_cut_with_the_way_to_the_rest() -> None:
    text = shown(calls=[{**CALL, "reply": {**CALL["reply"], "body": "x" * (MOST_SHOWN + 1234)}}])
    assert "… 1,234 more characters; --json shows them" in text


def test_nothing_in_a_reply_commands_the_terminal() -> None:
    text = shown(
        text="a\x1b[31mb\u202ec\x9bd", calls=[{**CALL, "reply": {**CALL["reply"], "body": "\x1b]0;title\x07"}}]
    )
    assert not set(text) & {"\x1b", "\u202e", "\x9b", "\x07"}


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({"fails": True, "seconds": None, "leaves": [], "about": "nothing"}, "next: an ordinary job fails now"),
        (
            {"fails": False, "seconds": 7.2, "leaves": [], "about": "pool"},
            "next: an ordinary job is asked again after 7",
        ),
        ({"fails": False, "seconds": 0.0, "leaves": [], "about": "key"}, "as soon as a key or a candidate may take it"),
    ],
)
def test_a_failure_shows_its_kind_and_what_is_next(then: dict[str, Any], told: str) -> None:
    failure = {"kind": "rate_limit", "code": "slow", "message": "slow down", "scope": "model"}
    error = {"code": "slow", "message": "slow down"}
    text = shown(status="failed", text=None, cost=None, input_tokens=None, error=error, failure=failure, next=then)
    assert "failed: slow: slow down\nkind: rate_limit (a rate limit" in text
    assert "concerning the model" in text
    assert told in text
    assert "no tokens reported, no price" in text


def test_a_call_that_left_no_trace_says_why() -> None:
    assert "the call was not made over TruckLLM's HTTP client" in shown(calls=[])
    refused = {"code": "untranslatable", "message": "top_k can't be translated"}
    assert "nothing was sent" in shown(calls=[], status="failed", text=None, error=refused)


def test_a_lost_call_says_whether_it_may_be_billed() -> None:
    error = {"code": "timeout", "message": "no whole reply", "sent": True}
    assert "no whole reply: timeout: no whole reply (it may have been billed)" in shown(
        calls=[{**CALL, "reply": None, "error": error}]
    )
