"""A traced call as it is kept: whole, and without a secret in any form."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.request import Failure, FailureKind
from worker.providers.base import Call, Reply, SendError
from worker.redaction import MOST_BODY_BYTES, told
from worker.tracing import Exchange, Trace

SECRET = 'canary/7f3a"91==.Zk_x'


def traced(
    *, url: str = "https://x.example/v1/chat", headers: Any = None, body: bytes = b"{}", reply: Reply | None = None
) -> Trace:
    return Trace([Exchange(Call("POST", url, {}, body), headers or {}, reply or Reply(200, {}, b"{}", 5))])


def forms(secret: str) -> list[str]:
    escaped = json.dumps(secret)[1:-1]
    return [secret, secret.upper(), quote(secret, safe=""), escaped, escaped.replace("/", "\\/"), secret[:14]]


@pytest.mark.parametrize("form", forms(SECRET))
@pytest.mark.parametrize("kind", ["json", "text", "stream", "key"])
def test_no_form_of_a_secret_is_left(form: str, kind: str) -> None:
    body = {
        "json": json.dumps({"error": {"message": f"no {form} here", "more": [form]}}),
        "text": f"<p>no {form} here</p>",
        "stream": f"data: {json.dumps({'says': form})}\n\ndata: [DONE]\n\n",
        "key": json.dumps({form: 1}),
    }[kind]
    trace = traced(reply=Reply(400, {"x-echo": form, "content-type": "text/plain"}, body.encode()))
    trace.text = f"your key is {form}"
    trace.raised = f"Traceback …\nRuntimeError: {form}"
    trace.failure = Failure(FailureKind.AUTH, "no", f"{form} is wrong")
    assert "canary" not in json.dumps(told(trace, [SECRET])).lower()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("authorization", "Bearer derived-token-abc", "Bearer ***"),
        ("authorization", "derived-token-abc", "***"),
        ("x-api-key", "abc", "***"),
        ("x-goog-api-key", "abc", "***"),
        ("cookie", "a=b", "***"),
        ("x-amz-security-token", "abcdef", "***"),
        ("x-gateway", "hidden by the configuration", "***"),
        ("x-ratelimit-remaining-tokens", "17", "17"),
        ("anthropic-ratelimit-tokens-reset", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("content-type", "application/json", "application/json"),
        ("anthropic-version", "2023-06-01", "2023-06-01"),
    ],
)
def test_headers_are_hidden_by_their_names(name: str, value: str, shown: str) -> None:
    (call,) = told(traced(headers={name: value}), [], ["X-Gateway"])["calls"]
    assert call["headers"] == {name: shown}


def test_what_a_call_carries_as_a_credential_is_hidden_where_a_reply_repeats_it() -> None:
    reply = Reply(
        401, {"x-seen": "Bearer signed-by-a-plugin-77"}, b'{"error": "signed-by-a-plugin-77 and q-value-123"}'
    )
    trace = traced(
        headers={"authorization": "Bearer signed-by-a-plugin-77"},
        url="https://x.example/v1?sig=q-value-123&v=1",
        reply=reply,
    )
    (call,) = told(trace, [])["calls"]
    assert call["url"] == "https://x.example/v1?sig=***&v=1"
    assert call["reply"]["body"] == {"error": "*** and ***"}
    assert "signed" not in json.dumps(call)


def test_a_key_in_pieces_of_a_stream_is_not_shown_with_it() -> None:
    half = len(SECRET) // 2
    events = "".join(f"data: {json.dumps({'says': part})}\n\n" for part in (SECRET[:half], SECRET[half:]))
    trace = traced(reply=Reply(200, {"content-type": "text/event-stream"}, events.encode()))
    trace.text = SECRET
    kept = told(trace, [SECRET])
    assert kept["text"] == "***"
    assert kept["calls"][0]["reply"]["body"] == "(not shown: the answer repeats a key)"


@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="*"), min_size=12, max_size=40),
    st.text(max_size=20),
)
def test_any_secret_is_found_in_any_text(secret: str, around: str) -> None:
    body = json.dumps({"a": f"{around}{secret}{around}"}).encode()
    kept = told(traced(reply=Reply(200, {}, body)), [secret])
    assert secret not in kept["calls"][0]["reply"]["body"]["a"]


def test_a_lost_call_keeps_what_is_known_of_it() -> None:
    partial = Reply(200, {"content-type": "text/event-stream"}, b"data: {}\n\n", 9)
    error = SendError(Failure(FailureKind.NETWORK, "truncated", "ended early"), sent=True, partial=partial)
    trace = traced()
    trace.exchanges[0].reply, trace.exchanges[0].error = partial, error
    (call,) = told(trace, [])["calls"]
    assert (call["error"]["code"], call["error"]["sent"]) == ("truncated", True)
    assert call["reply"]["body"] == "data: {}\n\n"


def test_bodies_have_a_bound_and_may_hold_anything() -> None:
    (call,) = told(traced(reply=Reply(200, {}, b"x" * (MOST_BODY_BYTES + 5))), [])["calls"]
    assert call["reply"]["body"].endswith("… cut, 1,048,581 bytes in all")
    for body in (b"\xff\xfe\x00", b"[" * 5000, b'{"a":' * 100 + b"1" + b"}" * 100, b'"\\ud800"', b""):
        assert json.dumps(told(traced(reply=Reply(200, {}, body)), [SECRET]))
