"""Results in another form than the line's own: replies in another vendor's shape, and CSV."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from models.formats.replies import shape_of
from models.formats.results import Form, Outcome, Writer, metadata_in, result_line
from worker.providers import claude, gemini, openai_chat

OPENAI = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-0806",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "get", "arguments": '{"city":"P"}'}}
                ],
            },
        }
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}
CLAUDE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-4-5",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c1", "name": "get", "input": {"city": "P"}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 50,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 10,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 5},
    },
}
GEMINI = {
    "candidates": [
        {
            "index": 0,
            "finishReason": "STOP",
            "content": {
                "role": "model",
                "parts": [
                    {"text": "hm", "thought": True},
                    {"text": "Let me see."},
                    {"functionCall": {"id": "c1", "name": "get", "args": {"city": "P"}}},
                ],
            },
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 15,
        "thoughtsTokenCount": 5,
        "totalTokenCount": 120,
    },
    "modelVersion": "gemini-3.5-flash",
    "responseId": "r1",
}
REPLIES: dict[str, dict[str, Any]] = {"openai": OPENAI, "claude": CLAUDE, "gemini": GEMINI}
MODELS = {"openai": "gpt-4o-0806", "claude": "claude-haiku-4-5", "gemini": "gemini-3.5-flash"}
KNOWN_WRITES = {"openai": 10, "claude": 10, "gemini": 0}


def outcome(reply: dict[str, Any], **fields: Any) -> Outcome:
    told = {
        "status": "succeeded",
        "dialect": "simple",
        "text": "Let me see.",
        "served_model": MODELS[shape_of(json.dumps(reply).encode()) or "openai"],
        "input_tokens": 100,
        "output_tokens": 20,
        "cached_tokens": 40,
        **fields,
    }
    return Outcome("r1", response=json.dumps(reply).encode(), **told)


def shown(one: Outcome, form: str) -> dict[str, Any]:
    """The reply in a result of this form."""
    line = json.loads(result_line(one, form))
    if form == "openai":
        return dict(line["response"]["body"])
    return dict(line["result"]["message"] if form == "claude" else line["response"])


@pytest.mark.parametrize("form", REPLIES)
@pytest.mark.parametrize("own", REPLIES)
def test_text_tool_calls_end_and_usage_are_the_same_in_every_shape(own: str, form: str) -> None:
    body = shown(outcome(REPLIES[own]), form)
    assert shape_of(json.dumps(body).encode()) == form
    writes = KNOWN_WRITES[own]
    if form == "openai":
        (choice,) = body["choices"]
        (call,) = choice["message"]["tool_calls"]
        told = (choice["message"]["content"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        assert (choice["finish_reason"], body["model"]) == ("tool_calls", MODELS[own])
        usage = openai_chat.read_usage(body["usage"])
    elif form == "claude":
        text, call = (block for block in body["content"] if block["type"] != "thinking")
        told = (text["text"], call["name"], call["input"])
        assert (body["stop_reason"], body["model"]) == ("tool_use", MODELS[own])
        usage = claude.read_usage(body["usage"])
    else:
        (candidate,) = body["candidates"]
        text, call = (part for part in candidate["content"]["parts"] if not part.get("thought"))
        told = (text["text"], call["functionCall"]["name"], call["functionCall"]["args"])
        assert (candidate["finishReason"], body["modelVersion"]) == ("STOP", MODELS[own])
        usage = gemini.read_usage(body["usageMetadata"])
        writes = 0
    assert told == ("Let me see.", "get", {"city": "P"})
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.cache_write_tokens) == (
        100,
        20,
        40,
        writes,
    )
    assert usage.reasoning_tokens == 5


@pytest.mark.parametrize("own", REPLIES)
def test_a_reply_in_its_own_shape_is_never_touched(own: str) -> None:
    raw = json.dumps(REPLIES[own], indent=1).replace("\n", "  ").encode()
    assert raw in result_line(Outcome("r1", "simple", "succeeded", response=raw), own)
    assert raw in result_line(Outcome("r1", own, "succeeded", response=raw))


def test_a_line_that_was_answered_elsewhere_is_answered_in_its_own_dialect() -> None:
    assert shown(outcome(CLAUDE, dialect="openai"), "openai")["choices"][0]["message"]["content"] == "Let me see."
    line = json.loads(result_line(outcome(OPENAI, dialect="claude")))
    assert line["result"]["message"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("own", "told", "ends"),
    [
        ("openai", "stop", ("stop", "end_turn", "STOP")),
        ("openai", "length", ("length", "max_tokens", "MAX_TOKENS")),
        ("openai", "content_filter", ("content_filter", "refusal", "SAFETY")),
        ("claude", "end_turn", ("stop", "end_turn", "STOP")),
        ("claude", "stop_sequence", ("stop", "stop_sequence", "STOP")),
        ("claude", "max_tokens", ("length", "max_tokens", "MAX_TOKENS")),
        ("gemini", "MAX_TOKENS", ("length", "max_tokens", "MAX_TOKENS")),
        ("gemini", "RECITATION", ("content_filter", "refusal", "RECITATION")),
    ],
)
def test_why_an_answer_ended_is_said_in_each_vendors_words(own: str, told: str, ends: tuple[str, str, str]) -> None:
    reply = {
        "openai": {"object": "chat.completion", "choices": [{"finish_reason": told, "message": {"content": "x"}}]},
        "claude": {"type": "message", "content": [{"type": "text", "text": "x"}], "stop_reason": told},
        "gemini": {"candidates": [{"finishReason": told, "content": {"parts": [{"text": "x"}]}}]},
    }[own]
    one = outcome(reply)
    assert shown(one, "openai")["choices"][0]["finish_reason"] == ends[0]
    assert shown(one, "claude")["stop_reason"] == ends[1]
    assert shown(one, "gemini")["candidates"][0]["finishReason"] == ends[2]


def test_what_is_no_chat_reply_shows_its_text() -> None:
    responses = {"id": "resp_1", "object": "response", "output": [{"type": "message", "content": []}]}
    body = shown(outcome(responses, dialect="openai", finish_reason="completed"), "claude")
    assert body["content"] == [{"type": "text", "text": "Let me see."}]
    assert body["usage"]["input_tokens"] == 60


def test_arguments_that_are_no_object_are_kept() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "oops"}}
    reply = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    assert shown(outcome(reply), "claude")["content"][0]["input"] == {"_raw": "oops"}


@pytest.mark.parametrize("form", ["openai", "claude", "gemini"])
def test_metadata_comes_back_in_every_shape_and_only_where_there_is_some(form: str) -> None:
    body = b'{"prompt":"x","metadata":{"n": 1.0}}'
    line = result_line(outcome(OPENAI, body=body), form)
    assert b'"metadata":{"n": 1.0}' in line
    assert b"metadata" not in result_line(outcome(OPENAI, body=b'{"prompt":"x"}'), form).replace(b"usageMetadata", b"")
    failed = json.loads(result_line(Outcome("r1", "simple", "failed", body=body, error_code="timeout"), form))
    assert failed["metadata"] == {"n": 1}


def test_any_line_has_a_simple_result() -> None:
    line = json.loads(result_line(outcome(CLAUDE, dialect="claude"), "simple"))
    assert (line["id"], line["text"], line["output_tokens"]) == ("r1", "Let me see.", 20)
    vectors = {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.10, 2]}]}
    line = result_line(outcome(vectors, dialect="openai", text=None), "simple")
    assert json.loads(line)["embeddings"] == [[0.1, 2]]


# CSV


def sheet(outcomes: list[Outcome], first: int | None = None) -> list[dict[str, str]]:
    writer = Writer(Form.CSV)
    content = writer.begin(metadata_in(one.body, one.metadata) for one in outcomes[:first])
    content += b"".join(writer.line(one) for one in outcomes)
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


def test_a_csv_has_a_row_for_each_job_and_a_column_for_each_field_of_the_metadata() -> None:
    body = b'{"id":7,"prompt":"x","metadata":{"lang":"fr","n":1.50,"text":"source"}}'
    good = outcome(OPENAI, body=body, text='a, "b"\nc', cost_nanos=1_500_000, currency="USD")
    failed = Outcome("é", "openai", "failed", error_code="timeout", error_message="no reply\nin 600 s", attempts=2)
    first, second = sheet([good, failed])
    assert (first["id"], first["text"], first["cost"], first["currency"]) == ("r1", 'a, "b"\nc', "0.0015", "USD")
    assert (first["lang"], first["n"], first["metadata.text"], first["metadata"]) == ("fr", "1.5", "source", "")
    assert (second["id"], second["status"], second["error_code"]) == ("é", "failed", "timeout")
    assert second["error_message"] == "no reply\nin 600 s"
    assert (second["text"], second["cost"], second["lang"]) == ("", "", "")


def test_metadata_without_a_column_stands_in_the_last_one() -> None:
    bodies = [
        b'{"metadata":{"a":1}}',
        b'{"metadata":{"a":{"b":[]},"late":2}}',
        b'{"metadata":"tag"}',
        b'{"metadata":null}',
    ]
    rows = sheet([Outcome(str(n), "simple", "queued", body=body) for n, body in enumerate(bodies)], first=1)
    assert [(row["a"], row["metadata"]) for row in rows] == [
        ("1", ""),
        ('{"b":[]}', '{"late":2}'),
        ("", "tag"),
        ("", ""),
    ]
