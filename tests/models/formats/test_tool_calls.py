"""Calls of tools in results: one neutral shape, whoever answered; and replies of `/responses` in other forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.formats.replies import calls_in
from models.formats.results import Outcome, result_line

CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_a",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
                    },
                    {"id": "call_b", "type": "custom", "custom": {"name": "grep", "input": "a.*b"}},
                ],
            },
        }
    ],
}
RESPONSES = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_a",
            "name": "weather",
            "arguments": '{"city":"Oslo"}',
            "status": "completed",
        },
        {"type": "custom_tool_call", "id": "ct_1", "call_id": "call_b", "name": "grep", "input": "a.*b"},
    ],
}
CLAUDE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "text", "text": "Let me see."},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Oslo"}},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "call_b", "name": "grep", "input": {"input": "a.*b"}},
    ],
    "stop_reason": "tool_use",
}
GEMINI = {
    "candidates": [
        {
            "content": {
                "role": "model",
                "parts": [
                    {"text": "Let me see."},
                    {"functionCall": {"id": "call_a", "name": "weather", "args": {"city": "Oslo"}}},
                    {"functionCall": {"id": "call_b", "name": "grep", "args": {"input": "a.*b"}}},
                ],
            },
            "finishReason": "STOP",
        }
    ]
}
REPLIES: dict[str, dict[str, Any]] = {"chat": CHAT, "responses": RESPONSES, "claude": CLAUDE, "gemini": GEMINI}
CALLS = [
    {"id": "call_a", "name": "weather", "arguments": {"city": "Oslo"}},
    {"id": "call_b", "name": "grep", "arguments": {"input": "a.*b"}},
]


def simple(reply: object, **fields: Any) -> dict[str, Any]:
    raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    one = Outcome("r1", "simple", fields.pop("status", "succeeded"), response=raw, **fields)
    return dict(json.loads(result_line(one, "simple")))


@pytest.mark.parametrize("shape", REPLIES)
def test_calls_of_tools_are_the_same_whoever_made_them(shape: str) -> None:
    assert simple(REPLIES[shape])["tool_calls"] == CALLS


def test_an_answer_without_calls_has_no_such_field() -> None:
    plain = {"object": "chat.completion", "choices": [{"message": {"content": 'about "tool_calls"'}}]}
    assert "tool_calls" not in simple(plain)
    assert "tool_calls" not in simple(CHAT, status="failed", error_code="content_filter")


def test_a_call_without_an_id_gets_one_by_its_place() -> None:
    parts = [{"functionCall": {"name": "now"}}, {"functionCall": {"name": "now", "args": {"zone": "UTC"}}}]
    calls = simple({"candidates": [{"content": {"parts": parts}}]})["tool_calls"]
    assert [(call["id"], call["arguments"]) for call in calls] == [("call_0_0", {}), ("call_0_1", {"zone": "UTC"})]


def test_a_legacy_function_call_is_one_too() -> None:
    message = {"content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    assert simple({"choices": [{"message": message}]})["tool_calls"] == [{"id": "", "name": "weather", "arguments": {}}]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"choices":[{"message":{"tool_calls":"\\ud800"}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":"x"},7,null]}}]}',
        b'{"candidates":[{"content":{"parts":[{"functionCall":null}]}}]}',
        b'{"type":"message","content":[{"type":"tool_use"}]}',
        b'{"object":"response","output":[{"type":"function_call"}]}',
        b'"tool_calls"',
        b'{"tool_calls":',
    ],
)
def test_whatever_a_reply_holds_its_result_is_written(raw: bytes) -> None:
    calls_in(raw)
    for form in ("simple", "openai", "claude", "gemini"):
        one = Outcome("r1", "simple", "succeeded", text="kept", response=raw)
        assert json.loads(result_line(one, form))


@pytest.mark.parametrize("form", ["claude", "gemini"])
def test_an_answer_of_responses_goes_into_other_forms_with_its_calls(form: str) -> None:
    line = result_line(
        Outcome("r1", "openai", "succeeded", text="Let me see.", response=json.dumps(RESPONSES).encode()), form
    )
    shown = json.loads(line)["result"]["message"] if form == "claude" else json.loads(line)["response"]
    assert simple(shown)["tool_calls"] == CALLS
    assert "Let me see." in json.dumps(shown)


def test_an_answer_of_responses_that_was_cut_says_so() -> None:
    cut = {
        **RESPONSES,
        "output": RESPONSES["output"][:2],
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
    }
    line = json.loads(result_line(Outcome("r1", "openai", "succeeded", response=json.dumps(cut).encode()), "claude"))
    assert line["result"]["message"]["stop_reason"] == "max_tokens"


def test_each_choice_of_a_legacy_completion_goes_into_other_forms() -> None:
    reply = {"object": "text_completion", "choices": [{"text": "a", "finish_reason": "length"}, {"text": "b"}]}
    line = json.loads(result_line(Outcome("r1", "openai", "succeeded", response=json.dumps(reply).encode()), "gemini"))
    texts = [candidate["content"]["parts"][0]["text"] for candidate in line["response"]["candidates"]]
    assert texts == ["a", "b"]
    assert line["response"]["candidates"][0]["finishReason"] == "MAX_TOKENS"


# Vectors

VECTORS = {
    "openai": b'{"object":"list","data":[{"object":"embedding","index":1,"embedding":[2.50,3]},'
    b'{"object":"embedding","index":0,"embedding":[0.10,1]}],"model":"m"}',
    "gemini": b'{"embeddings":[{"values":[0.10,1]},{"values":[2.50,3]}]}',
}


@pytest.mark.parametrize("own", VECTORS)
def test_vectors_go_digit_by_digit_into_every_form_that_has_a_place_for_them(own: str) -> None:
    def line(form: str) -> bytes:
        told = Outcome("r1", own, "succeeded", response=VECTORS[own], served_model="m", input_tokens=4)
        return result_line(told, form)

    assert b'"embeddings":[[0.10,1],[2.50,3]]' in line("simple")
    openai = json.loads(line("openai"))["response"]["body"]
    assert [one["embedding"] for one in sorted(openai["data"], key=lambda one: one["index"])] == [[0.1, 1], [2.5, 3]]
    assert [one["values"] for one in json.loads(line("gemini"))["response"]["embeddings"]] == [[0.1, 1], [2.5, 3]]
    assert b"0.10" in line("openai")
    assert b"2.50" in line("gemini")
    assert json.loads(line("claude"))["result"]["message"]["content"] == []
