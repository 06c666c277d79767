"""The OpenAI Batch dialect: bodies that keep every byte, and output lines in the shape of OpenAI's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import BadLine
from models.formats.lines import Line
from models.formats.openai import with_model
from models.formats.results import Outcome, result_line

REPLY = b'{"id": "chatcmpl-1","choices":[ {"message":{"content":"caf\\u00e9"}}],"usage":{"prompt_tokens":9.0}}'
DONE = Outcome("r1", "openai", "succeeded", response=REPLY, http_status=200, request_id="req_1", attempt_id=12)
FAILED = replace(DONE, status="failed", response=None, error_code="timeout", error_message="no reply in 600 s")


def parsed(outcome: Outcome) -> dict[str, Any]:
    line = result_line(outcome)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    row: dict[str, Any] = json.loads(line)
    assert list(row) == ["id", "custom_id", "response", "error"]
    return row


def test_a_reply_is_embedded_byte_for_byte() -> None:
    assert result_line(DONE) == (
        b'{"id":"batch_req_12","custom_id":"r1","response":{"status_code":200,"request_id":"req_1","body":'
        + REPLY
        + b'},"error":null}\n'
    )


def test_a_reply_over_several_lines_becomes_one_with_its_values_untouched() -> None:
    pretty = b'\n{\r\n  "a": 1.00,\n  "b": "x  y\\n"\n}\n'
    assert b'"body":{"a":1.00,"b":"x  y\\n"}}' in result_line(replace(DONE, response=pretty))


@pytest.mark.parametrize("reply", [b"<html>\xff</html>", b'{"a":', b"", b"[" * 100_000])
def test_a_reply_that_isnt_json_becomes_text(reply: bytes) -> None:
    row = parsed(replace(DONE, response=reply))
    assert row["response"]["body"] == reply.decode("utf-8", "replace")


def test_a_refusal_with_a_body_is_a_response_as_in_openais_error_files() -> None:
    body = b'{"error":{"message":"too long","type":"invalid_request_error","param":null,"code":null}}'
    row = parsed(replace(FAILED, http_status=400, response=body, error_code="x"))
    assert row["response"] == {"status_code": 400, "request_id": "req_1", "body": json.loads(body)}
    assert row["error"] is None


def test_any_other_failure_is_an_error_with_code_and_message() -> None:
    row = parsed(replace(FAILED, http_status=None))
    assert row["response"] is None
    assert row["error"] == {"code": "timeout", "message": "no reply in 600 s"}


def test_a_refusal_of_which_only_the_reason_is_known_looks_like_openais_own() -> None:
    for unreadable in (None, b"<html>"):
        row = parsed(
            replace(FAILED, http_status=400, response=unreadable, error_code="bad", error_message="not \ud800")
        )
        assert row["error"] is None
        assert row["response"] == {
            "status_code": 400,
            "request_id": FAILED.request_id,
            "body": {"error": {"message": "not ?", "code": "bad", "type": None, "param": None}},
        }


def test_a_failed_job_is_never_shown_as_a_200_response() -> None:
    row = parsed(replace(FAILED, http_status=200, response=REPLY, error_code="content_filter", error_message="refused"))
    assert row["response"] is None
    assert row["error"]["code"] == "content_filter"


@pytest.mark.parametrize("status", ["queued", "running", "cancelled"])
def test_a_job_without_a_result_says_so(status: str) -> None:
    row = parsed(Outcome("r1", "openai", status))
    assert row["response"] is None
    assert row["error"]["code"] == status
    assert row["error"]["message"]


def test_each_line_has_an_id_of_its_own_that_stays_the_same() -> None:
    one, other = (parsed(Outcome(name, "openai", "queued"))["id"] for name in ("r1", "r2"))
    assert one != other
    assert one.startswith("batch_req_")
    assert parsed(Outcome("r1", "openai", "cancelled"))["id"] == one


def test_a_lone_surrogate_in_a_providers_words_doesnt_stop_the_export() -> None:
    assert parsed(replace(FAILED, http_status=None, error_message="bad \ud800"))["error"]["message"] == "bad ?"


def test_a_body_that_asks_for_the_model_already_is_not_touched() -> None:
    body = b'{ "model" : "gpt\\u002d4o", "messages":[] }'
    assert with_model(body, "gpt-4o") is body


def test_only_the_model_changes_when_another_is_asked_for() -> None:
    body = b'{"n": 1.0, "model":"openai/gpt-4o","messages":[ {"content":"caf\\u00e9"}]}'
    assert with_model(body, "gpt-4o") == b'{"n":1.0,"model":"gpt-4o","messages":[ {"content":"caf\\u00e9"}]}'
    assert with_model(b'{"n": 1.0}', "gpt-4o") == b'{"model":"gpt-4o","n":1.0}'


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_bodies = st.dictionaries(st.text(max_size=5), _values, max_size=4).map(
    lambda extra: {
        **{f"x-{name}": value for name, value in extra.items()},
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
    }
)


@settings(max_examples=200, deadline=None)
@given(_bodies, st.sampled_from([None, 1]), st.sampled_from([(",", ":"), (" , ", " : ")]))
def test_a_body_survives_reading_byte_for_byte(
    read: Callable[..., list[Line | BadLine]], body: dict[str, Any], escape: int | None, separators: tuple[str, str]
) -> None:
    text = json.dumps(body, ensure_ascii=bool(escape), separators=separators).encode("utf-8", "surrogatepass")
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions", "body" : ' + text + b" }"
    (only,) = read(line)
    if isinstance(only, Line):
        assert only.body == text
        assert json.loads(with_model(only.body, "gpt-x")) == {**body, "model": "gpt-x"}
    else:
        assert "surrogate" in only.reason


@settings(deadline=None)
@given(st.binary(max_size=200) | _values.map(lambda value: json.dumps(value, indent=1).encode()))
def test_any_reply_gives_one_readable_line(reply: bytes) -> None:
    body = parsed(replace(DONE, response=reply))["response"]["body"]
    try:
        expected = json.loads(reply.decode())
    except ValueError:
        return
    if b"NaN" not in reply and b"Infinity" not in reply and "\\ud" not in reply.decode():
        assert body == expected
