"""Streams: put together they are the body that the same call gives without streaming; cut anywhere they are failures.

It sends nothing; tests/worker/test_http.py breaks real connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from models.request import Failure, FailureKind, Request, Response, Usage
from tests.worker.providers.test_translation import HI, make
from worker.providers.base import Provider, Reply, SendError
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.events import Event, is_idle, read_events
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI


def data(value: Any, name: str | None = None) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + (value if isinstance(value, bytes) else orjson.dumps(value)) + b"\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "model": "m-1",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}],
        "usage": None,
    }


OPENAI = [
    data(chunk({"role": "assistant", "content": ""})),
    b": keep-alive\n\n",
    data(chunk({"content": "Hel"})),
    data(chunk({"content": "lo \u2028 é"})),
    data(chunk({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "f"}}]})),
    data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]})),
    data(chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
    data(chunk({}, "stop")),
    data({**chunk({}), "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}),
    data(b"[DONE]"),
]
CLAUDE_EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m-1",
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1},
        },
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a"'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ":1}"}},
    {"type": "content_block_stop", "index": 2},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 25, "input_tokens": None},
    },
    {"type": "message_stop"},
]
CLAUDE = [data(event, str(event["type"])) for event in CLAUDE_EVENTS]
GEMINI = [
    data(
        {
            "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "hm", "thought": True}]}}],
            "usageMetadata": {"promptTokenCount": 8, "thoughtsTokenCount": 3, "totalTokenCount": 11},
        }
    ),
    data({"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": "Hel"}]}}]}),
    data(
        {
            "candidates": [
                {"index": 0, "content": {"role": "model", "parts": [{"text": "lo"}]}, "finishReason": "STOP"}
            ],
            "usageMetadata": {
                "promptTokenCount": 8,
                "candidatesTokenCount": 2,
                "thoughtsTokenCount": 3,
                "totalTokenCount": 13,
            },
            "modelVersion": "m-1",
            "responseId": "abc",
        }
    ),
]
STREAMS: dict[type[Provider], list[bytes]] = {OpenAI: OPENAI, Claude: CLAUDE, Gemini: GEMINI}
FINISHED_AT = {OpenAI: 8, Claude: len(CLAUDE), Gemini: 3}
"""How many pieces hold the finish marker."""


def read(kind: type[Provider], body: bytes, content_type: str = "text/event-stream") -> Response:
    request = Request("m", {"messages": HI, "stream": True}, KEY)
    return make(kind).read(request, Reply(200, {"content-type": content_type}, body))


def test_an_openai_stream_is_put_together() -> None:
    response = read(OpenAI, b"".join(OPENAI))
    assert response.failure is None
    assert response.usage == Usage(9, 4)
    assert (response.finish_reason, response.served_model) == ("stop", "m-1")
    body = orjson.loads(response.raw_response)
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": "Hello \u2028 é",
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
        }
    ]
    assert response.text == "Hello \u2028 é"


def test_openai_choices_of_one_stream_are_kept_apart() -> None:
    pieces = [chunk({"content": "a"}, None, 1), chunk({"content": "b"}), chunk({}, "stop", 1), chunk({}, "length")]
    body = orjson.loads(read(OpenAI, b"".join(data(piece) for piece in pieces)).raw_response)
    found = [(one["index"], one["message"]["content"], one["finish_reason"]) for one in body["choices"]]
    assert found == [(0, "b", "length"), (1, "a", "stop")]


def test_an_openai_stream_with_one_unfinished_choice_is_truncated() -> None:
    pieces = [chunk({"content": "a"}, None, 1), chunk({"content": "b"}), chunk({}, "length")]
    failure = read(OpenAI, b"".join(data(piece) for piece in pieces)).failure
    assert failure is not None
    assert failure.code == "truncated"


def test_a_claude_stream_is_put_together() -> None:
    response = read(Claude, b"".join(CLAUDE))
    assert response.failure is None
    assert response.usage == Usage(15, 25, cached_tokens=5)
    assert (response.text, response.finish_reason) == ("Hello", "end_turn")
    assert orjson.loads(response.raw_response)["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]


def test_a_gemini_stream_is_put_together() -> None:
    response = read(Gemini, b"".join(GEMINI))
    assert response.failure is None
    assert response.usage == Usage(8, 5, reasoning_tokens=3)
    assert (response.text, response.finish_reason, response.request_id) == ("Hello", "STOP", "abc")
    parts = orjson.loads(response.raw_response)["candidates"][0]["content"]["parts"]
    assert parts == [{"text": "hm", "thought": True}, {"text": "Hello"}]


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_line_ends_a_bom_and_a_missing_content_type_change_nothing(kind: type[Provider], newline: bytes) -> None:
    whole = b"".join(STREAMS[kind])
    expected = read(kind, whole)
    assert read(kind, whole.replace(b"\n", newline)) == expected
    assert read(kind, b"\xef\xbb\xbf" + whole, "text/event-stream; charset=utf-8") == expected
    assert read(kind, whole.rstrip(b"\n"), "text/plain") == expected


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_cut_anywhere_is_truncated_until_its_finish_marker(kind: type[Provider]) -> None:
    pieces = STREAMS[kind]
    whole = b"".join(pieces[: FINISHED_AT[kind]])
    for cut in range(len(whole) - 2):  # without its last line break an event counts all the same
        response = read(kind, whole[:cut])
        assert response.failure is not None, whole[:cut]
        assert (response.failure.kind, response.failure.code) == (FailureKind.NETWORK, "truncated")
    for end in range(FINISHED_AT[kind], len(pieces) + 1):
        assert read(kind, b"".join(pieces[:end])).failure is None


def test_a_cut_claude_stream_tells_its_input_and_an_estimate_of_its_output() -> None:
    # "hm" + "Hel" is 5 characters: 2 tokens at four a token; the input was told at the start
    response = read(Claude, b"".join(CLAUDE[:8]))
    assert response.usage == Usage(15, 2, cached_tokens=5)


def test_a_cut_gemini_stream_tells_what_it_told_last() -> None:
    assert read(Gemini, b"".join(GEMINI[:2])).usage == Usage(8, 3, reasoning_tokens=3)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (OpenAI, data({"error": {"message": "Overloaded", "type": "server_error", "code": None}})),
        (Claude, data({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error")),
        (Gemini, data({"error": {"code": 503, "status": "UNAVAILABLE", "message": "Overloaded"}})),
    ],
)
def test_an_error_inside_a_stream_is_the_providers_own(kind: type[Provider], error: bytes) -> None:
    response = read(kind, STREAMS[kind][0] + error)
    assert response.failure is not None
    assert (response.failure.kind, response.failure.message) == (FailureKind.SERVER, "Overloaded")


@pytest.mark.parametrize("kind", STREAMS)
def test_an_answer_that_came_unstreamed_is_read_all_the_same(kind: type[Provider]) -> None:
    streamed = read(kind, b"".join(STREAMS[kind]))
    plain = read(kind, streamed.raw_response, "application/json")
    assert (plain.text, plain.usage, plain.failure) == (streamed.text, streamed.usage, None)


def unframed(kind: type[Provider]) -> list[bytes]:
    """The JSON of a stream's events, without server-sent events around it."""
    return [event.data.encode() for event in read_events(b"".join(STREAMS[kind])) if event.data != "[DONE]"]


FRAMES: dict[str, Callable[[list[bytes]], bytes]] = {
    "lines": b"\n".join,
    "lines up to a mark": lambda values: b"\n".join([*values, b"[DONE]", b""]),
    "one behind the other": b"".join,
    "an array": lambda values: b"[" + b"\n,\r\n".join(values) + b"]\n",
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "text/event-stream"])
def test_a_stream_of_bare_objects_is_read(kind: type[Provider], frame: str, content_type: str) -> None:
    """Gemini's own without `alt=sse` is an array; gateways send lines."""
    expected = read(kind, b"".join(STREAMS[kind]))
    response = read(kind, FRAMES[frame](unframed(kind)), content_type)
    assert (response.text, response.usage, response.failure) == (expected.text, expected.usage, None)
    assert orjson.loads(response.raw_response) == orjson.loads(expected.raw_response)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("frame", FRAMES)
def test_a_stream_of_bare_objects_that_is_cut_is_no_answer(kind: type[Provider], frame: str) -> None:
    values = unframed(kind)
    until = FINISHED_AT[kind] - 1 - (kind is OpenAI)  # without the keep-alive
    whole = FRAMES[frame](values[:until])
    for cut in range(len(whole)):
        assert read(kind, whole[:cut], "application/json").failure is not None, whole[:cut]
    failure = read(kind, FRAMES[frame]([*values[:-1], b'{"error": {"message": "Overloaded"}}']), "text/plain").failure
    assert failure is not None
    assert failure.message == "Overloaded"


@pytest.mark.parametrize("kind", STREAMS)
def test_behind_a_whole_answer_only_an_error_counts(kind: type[Provider]) -> None:
    answered = read(kind, b"".join(STREAMS[kind]))
    for rest in (b"\n" + answered.raw_response, b"\n0\n", b"<!-- 12 ms -->"):
        response = read(kind, answered.raw_response + rest, "application/json")
        assert (response.text, response.usage, response.failure) == (answered.text, answered.usage, None)
        assert orjson.loads(response.raw_response) == orjson.loads(answered.raw_response)
    response = read(kind, answered.raw_response + b'{"error": {"message": "Overloaded"}}', "application/json")
    assert response.failure is not None
    assert (response.failure.message, response.usage) == ("Overloaded", answered.usage)


@pytest.mark.parametrize("kind", STREAMS)
def test_objects_of_another_api_are_no_answer(kind: type[Provider]) -> None:
    for body in (b'{"done": false}\n{"done": true}', b'[{"id": 1}, {"id": 2}]', b"[1, 2]", b'{"a": 1} {'):
        failure = read(kind, body, "application/json").failure
        assert failure is not None
        assert failure.code == "unreadable_reply"


@pytest.mark.parametrize("more", [{}, {"choices": []}, {"choices": [{"index": 0, "delta": {"content": "!"}}]}])
def test_usage_behind_the_end_mark_is_read_and_nothing_else(more: dict[str, Any]) -> None:
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}
    late = [data({**usage, **more}), data(b"{broken"), data({"error": {"message": "closed"}}), data(b"[DONE]")]
    response = read(OpenAI, b"".join([*OPENAI[:8], OPENAI[9], *late]))
    assert (response.failure, response.usage, response.text) == (None, Usage(9, 4), "Hello \u2028 é")


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("rubbish", [b"", b"data: {\n\n", b"data: 7\n\n", b"event: x\n\n", b"\xff\xff\n\n" * 3])
def test_a_stream_of_rubbish_is_truncated(kind: type[Provider], rubbish: bytes) -> None:
    failure = read(kind, rubbish).failure
    assert failure is not None
    assert failure.kind is FailureKind.NETWORK


class BrokenSender:
    """A sender whose connection breaks after some bytes of a stream."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def send(self, call: Any) -> Reply:
        failure = Failure(FailureKind.NETWORK, "connection_lost", "lost")
        raise SendError(failure, sent=True, partial=Reply(200, {"content-type": "text/event-stream"}, self.body))


async def generate(kind: type[Provider], body: bytes) -> Response:
    provider = make(kind)
    provider.sender = BrokenSender(body)
    return await provider.generate(Request("m", {"messages": HI, "stream": True}, KEY))


@pytest.mark.parametrize("kind", STREAMS)
def test_a_connection_that_breaks_after_the_finish_marker_costs_no_answer(kind: type[Provider]) -> None:
    assert asyncio.run(generate(kind, b"".join(STREAMS[kind]))).failure is None


def test_a_connection_that_breaks_before_it_keeps_the_transports_reason_and_the_usage_told() -> None:
    response = asyncio.run(generate(Claude, b"".join(CLAUDE[:8])))
    assert response.failure is not None
    assert response.failure.code == "connection_lost"
    assert response.usage == Usage(15, 2, cached_tokens=5)


def test_events_are_split_as_the_standard_says() -> None:
    stream = b"event: a\ndata: 1\ndata:2\nid: 7\nretry: 9\n\n: comment\n\nevent: lonely\n\ndata\n\ndata: \xff\n"
    assert list(read_events(stream)) == [Event("a", "1\n2"), Event("message", ""), Event("message", "\ufffd")]


@pytest.mark.parametrize(
    ("piece", "idle"),
    [
        (b": keep-alive\n\n", True),
        (b'event: ping\ndata: {"type": "ping"}\n\n', True),
        (b"\n", True),
        (b'data: {"type": "ping"}\n\ndata: {"x": 1}\n\n', False),
        (b'data: {"x":', False),
        (b"event: message_stop\n", False),
    ],
)
def test_keep_alives_are_told_from_news(piece: bytes, idle: bool) -> None:
    assert is_idle(piece) is idle
