"""Anthropic's and Gemini's own batch lines: read untouched, written as the providers write theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from models.errors import BadLine
from models.formats.lines import Line
from models.formats.results import Outcome, result_line

Reader = Callable[..., list[Line | BadLine]]

PARAMS = b'{ "model":"claude-haiku-4-5", "max_tokens" : 64,"top_p":1.0, "messages":[{"role":"user","content":"caf\\u00e9"}] }'
CLAUDE = b'{"custom_id": "a 1", "params":  ' + PARAMS + b" }"
REQUEST = b'{"contents" :[{"parts":[{"text":"hi"}]}],"generation_config":{"temperature":0.70}}'
GEMINI = b'{"key":"k1","request":' + REQUEST + b"}"


def claude(**params: Any) -> bytes:
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **params}
    return json.dumps({"custom_id": "a", "params": body}).encode()


def gemini(**request: Any) -> bytes:
    body = {"model": "gemini-3.5-flash", "contents": [{"parts": [{"text": "hi"}]}], **request}
    return json.dumps({"key": "a", "request": body}).encode()


def only(lines: list[Line | BadLine]) -> Line:
    (line,) = lines
    assert isinstance(line, Line), line
    return line


def reason(lines: list[Line | BadLine]) -> str:
    (line,) = lines
    assert isinstance(line, BadLine), line
    return line.reason


def test_a_message_batches_line_keeps_its_params_byte_for_byte(read: Reader) -> None:
    line = only(read(CLAUDE))
    assert (line.dialect, line.lane, line.model, line.custom_id) == ("claude", "claude", "claude-haiku-4-5", "a 1")
    assert line.body == PARAMS


def test_a_gemini_line_keeps_its_request_byte_for_byte_and_takes_its_model_from_the_command(read: Reader) -> None:
    line = only(read(GEMINI, model="gemini-3.5-flash"))
    assert (line.dialect, line.lane, line.model, line.custom_id) == ("gemini", "gemini", "gemini-3.5-flash", "k1")
    assert line.body == REQUEST


@pytest.mark.parametrize(
    "row",
    [
        {"request": {"model": "models/gemini-3.5-flash", "contents": [{"parts": [{"text": "hi"}]}]}},
        {"request": {"contents": [{"parts": [{"text": "hi"}]}]}, "model": "gemini-3.5-flash"},
    ],
)
def test_a_gemini_line_may_name_its_model(read: Reader, row: dict[str, Any]) -> None:
    line = only(read(json.dumps({"key": "a", **row}).encode()))
    assert (line.lane, line.model) == ("gemini", "gemini-3.5-flash")


def test_an_inline_requests_key_stands_in_its_metadata(read: Reader) -> None:
    line = b'{"request":' + REQUEST + b',"metadata":{"key":"r-9"}}'
    assert only(read(line, model="gemini-3.5-flash")).custom_id == "r-9"
    assert only(read(b'{"request":' + REQUEST + b"}", model="gemini-3.5-flash")).custom_id == "line-1"


def test_a_gemini_line_without_any_model_says_so(read: Reader) -> None:
    assert "has no model" in reason(read(GEMINI))
    assert "--model" in reason(read(GEMINI))


@pytest.mark.parametrize("line", [claude(model="my-own"), gemini(model="tunedModels/my-own")])
def test_a_model_that_nobody_names_goes_to_the_only_provider_of_the_bodys_type(read: Reader, line: bytes) -> None:
    found = only(read(line))
    assert found.lane == found.dialect


@pytest.mark.parametrize(("line", "dialect"), [(claude(model="gpt-4o"), "claude"), (gemini(model="gpt-4o"), "gemini")])
def test_a_body_goes_where_its_model_says_to_be_translated_there(read: Reader, line: bytes, dialect: str) -> None:
    found = only(read(line))
    assert (found.lane, found.dialect) == ("openai", dialect)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"params":{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}}', "custom_id is missing"),
        (b'{"custom_id":"a","params":[]}', "params must be an object, not an array"),
        (claude(max_tokens=None), "params.max_tokens is missing"),
        (claude(max_tokens="9"), "params.max_tokens must be a positive whole number, not '9'"),
        (claude(messages=None), "params.messages is missing"),
        (claude(messages=[{"role": "user"}]), "params.messages[0].content is missing"),
        (claude(system=7), "params.system must be a string"),
        (claude(model=3), "params.model must be a string"),
        (b'{"key":"a","request":"x"}', "request must be an object, not 'x'"),
        (b'{"key":{},"request":{}}', "key must be a string"),
        (gemini(contents=None), "request.contents is missing"),
        (gemini(contents=[]), "request.contents must be a list of {role, parts} with at least one entry, not an empty"),
        (gemini(contents=["x"]), "request.contents[0] must be an object with parts, not 'x'"),
        (gemini(contents=[{"parts": []}]), "request.contents[0].parts must be a list of objects"),
        (gemini(contents=[{"role": 1, "parts": [{}]}]), "request.contents[0].role must be a string"),
        (gemini(generationConfig=[]), "request.generationConfig must be an object"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_by_the_fields_own_name(read: Reader, line: bytes, words: str) -> None:
    assert words in reason(read(line, model="claude-haiku-4-5" if b"params" in line else "gemini-3.5-flash"))


def test_a_simple_line_may_have_fields_of_those_names(read: Reader) -> None:
    for field in ("params", "request"):
        line = only(read(json.dumps({"prompt": "hi", "model": "gpt-4o", field: {}}).encode()))
        assert line.dialect == "simple"


def test_ids_are_unique_over_all_dialects_of_a_file(read: Reader) -> None:
    lines = read(claude() + b"\n" + gemini())
    assert isinstance(lines[1], BadLine)
    assert "line 1 has it too" in lines[1].reason


# Results

MESSAGE = b'{"id":"msg_1","type":"message","content":[{"type":"text","text":"Hi"}],"usage":{"input_tokens":1.0}}'
ANSWER = b'{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}],"modelVersion":"gemini-3.5-flash"}'


def written(**fields: Any) -> dict[str, Any]:
    line = result_line(Outcome(custom_id="r1", **fields))
    assert line.count(b"\n") == 1
    return dict(json.loads(line))


def test_a_reply_stands_in_the_providers_own_batch_output_as_it_came() -> None:
    line = result_line(Outcome("r1", "claude", "succeeded", response=MESSAGE))
    assert line == b'{"custom_id":"r1","result":{"type":"succeeded","message":' + MESSAGE + b"}}\n"
    line = result_line(Outcome("r1", "gemini", "succeeded", response=ANSWER))
    assert line == b'{"key":"r1","response":' + ANSWER + b"}\n"


def test_anthropics_error_is_nested_twice_and_as_it_came() -> None:
    told = {"type": "error", "error": {"type": "not_found_error", "message": "model: x"}, "request_id": "req_2"}
    row = written(
        dialect="claude", status="failed", http_status=404, response=json.dumps(told).encode(), error_code="model"
    )
    assert row == {"custom_id": "r1", "result": {"type": "errored", "error": told}}


@pytest.mark.parametrize(
    ("code", "http_status", "kind", "own"),
    [
        ("rate_limit_error", 429, "rate_limit_error", None),
        ("http_503", 503, "api_error", "http_503"),
        ("overloaded", 529, "overloaded_error", "overloaded"),
        ("timeout", None, "timeout_error", "timeout"),
        ("untranslatable", None, "invalid_request_error", "untranslatable"),
    ],
)
def test_a_failure_without_anthropics_words_gets_them(
    code: str, http_status: int | None, kind: str, own: str | None
) -> None:
    row = written(
        dialect="claude", status="failed", error_code=code, error_message="why", http_status=http_status, request_id="q"
    )
    error = {"type": kind, "message": "why"} | ({"details": {"error_code": own}} if own else {})
    assert row["result"] == {"type": "errored", "error": {"type": "error", "error": error, "request_id": "q"}}


def test_anthropic_says_canceled() -> None:
    assert written(dialect="claude", status="cancelled")["result"] == {"type": "canceled"}
    assert written(dialect="claude", status="queued")["result"] == {"type": "queued"}


def test_googles_error_becomes_its_rpc_status() -> None:
    details = [{"@type": "x", "retryDelay": "45s"}]
    told = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota", "details": details}}
    row = written(dialect="gemini", status="failed", http_status=429, response=json.dumps(told).encode())
    assert row == {"key": "r1", "error": {"code": 8, "message": "quota", "details": details}}


@pytest.mark.parametrize(
    ("status", "code", "http_status", "number"),
    [
        ("failed", "INVALID_ARGUMENT", 400, 3),
        ("failed", "http_502", 502, 14),
        ("failed", "timeout", None, 4),
        ("failed", "poison", None, 2),
        ("cancelled", None, None, 1),
        ("running", None, None, 14),
    ],
)
def test_any_other_end_is_an_rpc_status_with_our_code_as_its_reason(
    status: str, code: str | None, http_status: int | None, number: int
) -> None:
    error = written(dialect="gemini", status=status, error_code=code, http_status=http_status)["error"]
    assert error["code"] == number
    assert [(info["reason"], info["domain"]) for info in error["details"]] == [(code or status, "truckllm")]
