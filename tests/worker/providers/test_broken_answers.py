"""Replies with status 200 that hold no whole answer: broken off, ended inside their reasoning, removed, or whole and empty.

The field cases are replayed in tests/acceptance/test_field_cases.py; here are their siblings in every dialect.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.request import FailureKind, Request, Response
from tests.worker.providers.test_streams import chunk, data
from tests.worker.providers.test_translation import HI, make
from worker.providers.base import Provider, Reply
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.finish import Finish, finish_of
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

USAGE = {"prompt_tokens": 10, "completion_tokens": 50, "total_tokens": 60}


def chat(finish: str | None, body: dict[str, Any] | None = None, /, **message: Any) -> tuple[type[Provider], str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return OpenAI, "chat", {"choices": [choice], "usage": USAGE, **(body or {})}


def legacy(finish: str | None, text: str) -> tuple[type[Provider], str, Any]:
    return OpenAI, "completions", {"choices": [{"index": 0, "text": text, "finish_reason": finish}], "usage": USAGE}


def response_of(status: str, *output: Any, reason: str | None = None) -> tuple[type[Provider], str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 50, "total_tokens": 60}
    details = {"reason": reason} if reason else None
    return OpenAI, "responses", {"status": status, "output": output, "incomplete_details": details, "usage": usage}


def claude(finish: str | None, *blocks: Any) -> tuple[type[Provider], str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 50}
    return Claude, "chat", {"type": "message", "content": blocks, "stop_reason": finish, "usage": usage}


def gemini(finish: str | None, *parts: Any) -> tuple[type[Provider], str, Any]:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 50, "totalTokenCount": 60}
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": finish}
    return Gemini, "chat", {"candidates": [candidate], "usageMetadata": usage}


def read(case: tuple[type[Provider], str, Any]) -> Response:
    kind, operation, body = case
    return make(kind).read(Request("m", {"messages": HI}, KEY, operation=operation), Reply(200, {}, orjson.dumps(body)))


TEXT = {"type": "text", "text": "Hi"}
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BROKEN = {
    **{
        f"chat {finish}": (chat(finish, content="half an ans"), "broken_answer")
        for finish in (
            "error",
            "network_error",
            "insufficient_system_resource",
            "abort",
            "ABORTED",
            "timeout",
            "cancelled",
            "internal_error",
            "function_call_filter: MALFORMED_FUNCTION_CALL",
        )
    },
    "chat, nothing at all": (chat(None, content=""), "no_content"),
    "chat, null and no reason": (chat(None, content=None), "no_content"),
    "chat, a reason nobody knows": (chat("moon", content=None), "no_content"),
    "chat, calls that didn't come": (chat("tool_calls", content=None, tool_calls=[]), "no_content"),
    "chat, reasoning_content": (chat("stop", content="", reasoning_content="hmm"), "reasoning_only"),
    "chat, reasoning and blanks": (chat("stop", content="\n\n", reasoning="hmm"), "reasoning_only"),
    "chat, reasoning_details": (chat("stop", content=None, reasoning_details=[{"text": "h"}]), "reasoning_only"),
    "chat, think in the text": (chat("stop", content="<think>\nhmm hmm"), "reasoning_only"),
    "chat, think and nothing behind it": (chat("stop", content="<think>hmm</think>\n"), "reasoning_only"),
    "chat, thinking parts": (chat("stop", content=[{"type": "thinking", "thinking": [TEXT]}]), "reasoning_only"),
    "completions": (legacy("error", "half"), "broken_answer"),
    "completions, nothing": (legacy(None, ""), "no_content"),
    "responses, reasoning": (response_of("completed", {"type": "reasoning", "summary": []}), "reasoning_only"),
    "responses, a search and reasoning": (
        response_of("completed", {"type": "web_search_call"}, {"type": "reasoning"}),
        "reasoning_only",
    ),
    "responses, failed": (response_of("failed", MESSAGE), "failed"),
    "responses, incomplete": (response_of("incomplete", MESSAGE, reason="moon"), "incomplete"),
    "claude, thinking": (claude("end_turn", {"type": "thinking", "thinking": "hm"}), "reasoning_only"),
    "claude, paused with nothing": (claude("pause_turn", {"type": "server_tool_use", "id": "s"}), "no_content"),
    "claude, no reason and nothing": (claude(None), "no_content"),
    "claude, a call that didn't come": (claude("tool_use"), "no_content"),
    "gemini, thoughts": (gemini("STOP", {"text": "hm", "thought": True}), "reasoning_only"),
    "gemini, no reason and nothing": (gemini(None), "no_content"),
    "gemini, half a call with words": (gemini("MALFORMED_FUNCTION_CALL", {"text": "I"}), "malformed_function_call"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_the_providers_failure_and_billed(name: str) -> None:
    case, code = BROKEN[name]
    response = read(case)
    assert response.failure is not None
    assert (response.failure.kind, response.failure.code) == (FailureKind.SERVER, code)
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (10, 50)
    assert not response.empty


WHOLE = {
    "chat": chat("stop", content="Hi"),
    "chat without a reason": chat(None, content="Hi"),
    "chat with a reason nobody knows": chat("moon", content="Hi"),
    "chat with reasoning": chat("stop", content="Hi", reasoning_content="hmm"),
    "chat with thoughts before the text": chat("stop", content="<think>hmm</think>Hi"),
    "reasoning cut by its bound": chat("length", content="", reasoning_content="hmm"),
    "reasoning cut, in a gateway's word": chat("max_tokens", content=None, reasoning="hmm"),
    "too long for the context": chat("model_context_window_exceeded", content=""),
    "calls of tools": chat("tool_calls", content=None, tool_calls=[CALL], reasoning_content="hmm"),
    "calls of tools that end with stop": chat("stop", content="", tool_calls=[CALL]),
    "an old call": chat("function_call", content=None, function_call={"name": "f", "arguments": "{}"}),
    "sound": chat("stop", content=None, audio={"data": "AAAA"}),
    "images": chat("stop", content="", images=[{"type": "image_url"}]),
    "an error field that says nothing": chat("stop", {"error": {"message": "", "code": None}}, content="Hi"),
    "completions": legacy("length", ""),
    "responses": response_of("completed", {"type": "reasoning"}, MESSAGE),
    "responses cut": response_of("incomplete", {"type": "reasoning"}, reason="max_output_tokens"),
    "responses with a call": response_of("completed", {"type": "function_call", "name": "f"}),
    "claude": claude("end_turn", {"type": "thinking", "thinking": "hm"}, TEXT),
    "claude cut": claude("max_tokens", {"type": "thinking", "thinking": "hm"}),
    "claude, too long": claude("model_context_window_exceeded"),
    "claude paused with words": claude("pause_turn", TEXT),
    "claude with a call": claude("tool_use", {"type": "tool_use", "id": "t", "name": "f", "input": {}}),
    "gemini": gemini("STOP", {"text": "hm", "thought": True}, {"text": "Hi"}),
    "gemini cut": gemini("MAX_TOKENS", {"text": "hm", "thought": True}),
    "gemini with a call": gemini("STOP", {"functionCall": {"name": "f"}}),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_or_a_cut_answer_is_kept(name: str) -> None:
    response = read(WHOLE[name])
    assert (response.failure, response.empty) == (None, False)


EMPTY = {
    "chat": chat("stop", content=""),
    "chat, null": chat("stop", content=None),
    "chat, blanks": chat("stop", content=" \n"),
    "chat, in a gateway's word": chat("eos", content=""),
    "chat after reasoning that is only counted": chat(
        "stop", {"usage": {**USAGE, "completion_tokens_details": {"reasoning_tokens": 50}}}, content=""
    ),
    "completions": legacy("stop", ""),
    "responses": response_of("completed"),
    "responses with a message": response_of(
        "completed", {"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": ""}]}
    ),
    "claude": claude("end_turn"),
    "claude at a stop sequence": claude("stop_sequence", {"type": "text", "text": ""}),
    "gemini": gemini("STOP"),
    "gemini without content": (Gemini, "chat", {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {}}),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_answer_that_ended_by_itself_is_marked(name: str) -> None:
    response = read(EMPTY[name])
    assert (response.failure, response.empty) == (None, True)


def test_one_broken_choice_breaks_the_answer_and_one_empty_choice_leaves_it_whole() -> None:
    def choices(*ends: tuple[str, str]) -> tuple[type[Provider], str, Any]:
        found = [
            {"index": index, "message": {"content": text}, "finish_reason": finish}
            for index, (finish, text) in enumerate(ends)
        ]
        return OpenAI, "chat", {"choices": found, "usage": USAGE}

    assert read(choices(("stop", "Hi"), ("error", "ha"))).failure is not None
    half = read(choices(("stop", "Hi"), ("stop", "")))
    assert (half.failure, half.empty) == (None, False)
    assert read(choices(("stop", ""), ("stop", ""))).empty


ERROR = {"code": 502, "message": "Upstream connection lost"}


@pytest.mark.parametrize(
    "body",
    [
        chat("stop", {"error": ERROR}, content="half")[2],
        {
            "choices": [{"index": 0, "error": ERROR, "message": {"content": "half"}, "finish_reason": None}],
            "usage": USAGE,
        },
        {
            "choices": [
                {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"},
                {"index": 1, "error": ERROR, "message": {"content": "ha"}, "finish_reason": "error"},
            ],
            "usage": USAGE,
        },
    ],
)
@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_an_error_beside_an_answer_or_in_it_is_the_providers_word(body: Any, operation: str) -> None:
    response = read((OpenAI, operation, body))
    assert response.failure is not None
    assert (response.failure.kind, response.failure.message) == (FailureKind.SERVER, "Upstream connection lost")
    if operation == "chat":
        assert response.usage is not None


@pytest.mark.parametrize(
    "last",
    [
        {**chunk({"content": ""}, "error"), "error": ERROR},
        {**chunk({}), "choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": ERROR}]},
        {"error": ERROR},
    ],
)
def test_an_error_in_a_stream_keeps_the_usage_that_comes_behind_it(last: dict[str, Any]) -> None:
    events = [chunk({"content": "The first half"}), last, {"choices": [], "usage": USAGE}]
    body = b"".join(data(event) for event in events) + data(b"[DONE]")
    request = Request("m", {"messages": HI, "stream": True}, KEY)
    response = make(OpenAI).read(request, Reply(200, {"content-type": "text/event-stream"}, body))
    assert response.failure is not None
    assert (response.failure.kind, response.failure.message) == (FailureKind.SERVER, "Upstream connection lost")
    assert response.usage is not None
    assert response.usage.output_tokens == 50


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        (None, Finish.NONE),
        ("", Finish.NONE),
        ("stop", Finish.STOP),
        ("END_TURN", Finish.STOP),
        ("Stop Sequence", Finish.STOP),
        ("max-tokens", Finish.LENGTH),
        ("content_filter: SAFETY", Finish.FILTER),
        ("function_call_filter: UNEXPECTED_TOOL_CALL", Finish.BROKEN),
        ("error: upstream", Finish.BROKEN),
        ("tool_calls", Finish.OTHER),
        ("::", Finish.OTHER),
    ],
)
def test_finish_reasons_are_known_in_any_spelling(reason: str | None, finish: Finish) -> None:
    assert finish_of(reason) is finish
