"""Replies as servers in the field send them: answers in unusual places, errors without their usual name, usage that can't be right."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from models.config import ProviderConfig
from models.request import Failure, Request, Response
from tests.worker.providers.test_signals import DATE, DIALECTS
from worker.providers.base import Reply
from worker.providers.contract import KEY, NoSender

USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
INPUTS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "x"}]},
    "responses": {"input": "x"},
    "completions": {"prompt": "x"},
    "embeddings": {"input": "x"},
}


def read(dialect: str, body: Any, operation: str = "chat", *, stream: bool = False, **fields: Any) -> Response:
    tree = {"id": dialect, "base_url": "https://api.example.com/v1", "keys": [{"id": "k", "secret": KEY}]}
    provider = DIALECTS[dialect](ProviderConfig.model_validate(tree), NoSender())
    raw = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else orjson.dumps(body)
    kind = "text/event-stream" if stream else "application/json"
    asked = {**INPUTS[operation], **fields, **({"stream": True} if stream else {})}
    return provider.read(
        Request("m-1", asked, KEY, operation=operation), Reply(200, {"date": DATE, "content-type": kind}, raw)
    )


def sse(*events: Any, done: bool = True) -> str:
    """The events of a stream: a pair is (name, data)."""
    pieces = []
    for event in events:
        name, data = event if isinstance(event, tuple) else ("", event)
        text = data if isinstance(data, str) else json.dumps(data)
        pieces.append((f"event: {name}\n" if name else "") + f"data: {text}\n\n")
    return "".join(pieces) + ("data: [DONE]\n\n" if done else "")


def chunk(content: str = "", finish: Any = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


def message(fields: dict[str, Any], finish: Any = "stop", usage: Any = USAGE, **beside: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}
    return {"choices": [choice], "usage": usage, **beside}


def response(*output: Any, status: str = "completed", **beside: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    return {"object": "response", "status": status, "output": list(output), "usage": usage, **beside}


def said(text: str, **beside: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text}], **beside}


PIECE = {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi"}
ANSWERS: dict[str, Response] = {
    "a stream of one whole message": read("openai", sse(message({"content": "Hi"})), stream=True),
    "a message so far beside each piece, as Perplexity's": read(
        "openai",
        sse(
            {"choices": [{"index": 0, "delta": {"content": "H"}, "message": {"content": "H"}}]},
            {"choices": [{"index": 0, "delta": {"content": "i"}, "message": {"content": "Hi"}, "finish_reason": "stop"}]},
        ),
        stream=True,
    ),
    "JSON as an event stream": read("openai", message({"content": "Hi"}), stream=True),
    "lines that end in CR": read("openai", sse(chunk("Hi"), chunk("", "stop")).replace("\n", "\r"), stream=True),
    "data without a space": read("openai", sse(chunk("Hi", "stop")).replace("data: ", "data:"), stream=True),
    "a log probability of -Infinity": read(
        "openai",
        json.dumps(message({"content": "Hi"})).replace('"finish_reason"', '"logprobs": {"content": [{"logprob": -Infinity}]}, "finish_reason"'),
    ),
    "a last event without the output": read(
        "openai", sse(PIECE, {"type": "response.completed", "response": response()}, done=False), "responses", stream=True
    ),
    "a length by another name": read(
        "openai", response(said("Hi"), status="incomplete", incomplete_details={"reason": "max_tokens"}), "responses"
    ),
    "an event of which nothing can be read, after the end": read("openai", sse(chunk("Hi", "stop"), "upstream closed"), stream=True),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_in_an_unusual_form_is_taken(name: str) -> None:
    found = ANSWERS[name]
    assert (found.failure, found.text, found.empty) == (None, "Hi", False)
    if not name.startswith(("lines", "data", "an event", "a message")):
        assert orjson.loads(found.raw_response)


def test_json_as_content_is_the_text() -> None:
    found = read("openai", message({"content": {"answer": 1}}))
    assert (found.failure, found.empty, json.loads(found.text or "")) == (None, False, {"answer": 1})


FAILURES: dict[str, tuple[Response, str, str]] = {
    "a finish reason 'null' before the cut": (read("openai", sse(chunk("Half", "null"), done=False), stream=True), "network", ""),
    "an object as finish reason": (
        read("openai", message({"content": "Half"}, {"type": "abort", "message": "x"})), "server", "broke off"
    ),
    "a time limit": (read("openai", message({"content": "Half"}, "time_limit")), "server", "broke off"),
    "an event named error": (
        read("openai", sse(chunk("Half"), ("error", {"message": "boom", "code": 500}), done=False), stream=True), "server", "boom"
    ),
    "an event named error after the end": (
        read("openai", sse(chunk("Half", "stop"), ("error", {"message": "boom", "code": 500})), stream=True), "server", "boom"
    ),
    "an event named error that is no JSON": (
        read("openai", sse(chunk("Half", "stop"), ("error", "upstream reset")), stream=True), "server", ""
    ),
    "an error at the top of an event": (
        read("openai", sse(chunk("Half", "stop"), {"object": "error", "message": "Engine died", "code": 500}), stream=True),
        "server", "Engine died",
    ),
    "money at the top of an event": (
        read("openai", sse(chunk("Half"), {"object": "error", "message": "Insufficient balance"}), stream=True), "quota", "balance"
    ),
    "an error in JSON as an event stream": (
        read("openai", {"error": {"message": "Insufficient Balance"}}, stream=True), "quota", "Balance"
    ),
    "an error event of responses without a type": (
        read("openai", sse(("error", {"message": "Insufficient balance"})), "responses", stream=True), "quota", "balance"
    ),
    "an unreadable error event of responses": (read("openai", sse(PIECE, ("error", "x")), "responses", stream=True), "server", ""),
    "a message that is incomplete in a completed response": (
        read("openai", response(said("Half", status="incomplete")), "responses"), "server", "incomplete"
    ),
    "a completion for one of two prompts": (
        read("openai", {"choices": [{"index": 0, "text": "A", "finish_reason": "stop"}], "usage": USAGE}, "completions", prompt=["a", "b"]),
        "server", "2 prompts",
    ),
    "a vector of nulls": (
        read("openai", {"data": [{"index": 0, "embedding": [None, None]}], "usage": {"total_tokens": 3}}, "embeddings"), "network", ""
    ),
    "an account without money, without the name error": (
        read("openai", {"success": False, "message": "Insufficient balance", "data": None}), "quota", "balance"
    ),
    "the same for embeddings": (read("openai", {"code": 30001, "message": "Insufficient balance"}, "embeddings"), "quota", "balance"),
    "the same for Claude's dialect": (read("claude", {"code": 1113, "msg": "余额不足", "success": False}), "quota", "余额不足"),
    "an error at the top in Claude's dialect": (read("claude", {"type": "error", "message": "Insufficient balance"}), "quota", "balance"),
    "a list of errors": (read("openai", {"errors": [{"message": "Rate limit exceeded", "code": 429}]}), "rate_limit", "Rate limit"),
    "reasoning_text alone": (read("openai", message({"content": "", "reasoning_text": "hm"})), "server", "reasoning"),
    "text that ends with its thoughts": (read("openai", message({"content": "hm hm</think>\n"})), "server", "reasoning"),
    "a refusal as a part": (read("openai", message({"content": [{"type": "refusal", "refusal": "No."}]})), "content_filter", "No."),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_no_answer_is_taken_for_one(name: str) -> None:
    found, kind, words = FAILURES[name]
    assert found.failure is not None
    assert found.failure.kind == kind, found.failure
    assert words in found.failure.message


def test_other_json_in_a_200_stays_unreadable() -> None:
    for body in ({"status": "ok"}, {"message": "Welcome"}, {"code": 404, "message": "no such thing"}):
        found = read("openai", body)
        assert found.failure is not None
        assert found.failure.code == "unreadable_reply"


# Usage


@pytest.mark.parametrize("counts", [(0, 0), (10, 0), (0, 5)])
@pytest.mark.parametrize("stream", [False, True])
def test_zeros_beside_an_answer_are_no_usage(counts: tuple[int, int], stream: bool) -> None:
    """Servers that don't count report 0: a cost of it would look complete."""
    usage = {"prompt_tokens": counts[0], "completion_tokens": counts[1], "total_tokens": sum(counts)}
    body = (
        sse(chunk("Hi"), {**chunk("", "stop"), "usage": usage}) if stream else message({"content": "Hi"}, usage=usage)
    )
    assert read("openai", body, stream=stream).usage is None


def test_an_empty_answer_may_have_no_output() -> None:
    found = read(
        "openai", message({"content": ""}, usage={"prompt_tokens": 10, "completion_tokens": 0, "total_tokens": 10})
    )
    assert found.empty
    assert found.usage is not None


def test_zeros_in_other_dialects_are_no_usage_either() -> None:
    claude = {
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    gemini = {
        "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 0, "candidatesTokenCount": 0, "totalTokenCount": 0},
    }
    vectors = {"data": [{"index": 0, "embedding": [0.1]}], "usage": {"prompt_tokens": 0, "total_tokens": 0}}
    for dialect, body, operation in (
        ("claude", claude, "chat"),
        ("gemini", gemini, "chat"),
        ("openai", vectors, "embeddings"),
    ):
        found = read(dialect, body, operation)
        assert (found.failure, found.usage) == (None, None)


def test_a_claude_stream_without_its_final_count_has_no_usage() -> None:
    """The first event's output is that of the first token."""
    start = {
        "type": "message_start",
        "message": {"role": "assistant", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}},
    }
    events = [
        start,
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": None},
        {"type": "message_stop"},
    ]
    found = read("claude", sse(*[(one["type"], one) for one in events], done=False), stream=True)
    assert (found.failure, found.text, found.usage) == (None, "Hi", None)


def test_a_claude_stream_that_lost_the_beginning_of_a_tools_call_is_cut() -> None:
    start = {
        "type": "message_start",
        "message": {"role": "assistant", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}},
    }
    events = [
        start,
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    found = read("claude", sse(*[(one["type"], one) for one in events], done=False), stream=True)
    assert found.failure is not None
    assert found.failure.code == "truncated"


@pytest.mark.parametrize(
    ("usage", "given", "cached"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 90}, 100, 90),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "total_tokens": 105,
                "prompt_tokens_details": {"cached_tokens": 90},
            },
            100,
            90,
        ),
        ({"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90, "total_tokens": 105}, 100, 90),
        ({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105, "cache_read_input_tokens": 90}, 100, 90),
    ],
)
def test_cached_input_is_counted_once_and_is_no_fee(usage: dict[str, Any], given: int, cached: int) -> None:
    found = read("openai", message({"content": "Hi"}, usage=usage)).usage
    assert found is not None
    assert (found.input_tokens, found.output_tokens, found.cached_tokens, found.fees) == (given, 5, cached, ())


@pytest.mark.parametrize(
    ("body", "fee"),
    [
        (message({"content": "Hi"}, citations=["https://a"]), "web_search_requests"),
        (message({"content": "Hi"}, search_results=[{"url": "https://a"}]), "web_search_requests"),
        (message({"content": "Hi"}, web_search=[{"link": "https://a"}]), "web_search_requests"),
        (message({"content": "Hi", "annotations": [{"type": "url_citation"}]}), "web_search_requests"),
        (
            message({"content": "Hi"}, usage={**USAGE, "plugins": {"search": {"count": 1, "strategy": "turbo"}}}),
            "web_search_requests",
        ),
        (message({"content": "Hi", "executed_tools": [{"type": "search"}]}), "executed_tools"),
        (
            message({"content": "Hi"}, usage={**USAGE, "num_sources_used": 3}, citations=["https://a"]),
            "num_sources_used",
        ),
    ],
)
def test_a_search_that_the_body_shows_is_billed_beside_tokens(body: dict[str, Any], fee: str) -> None:
    found = read("openai", body).usage
    assert found is not None
    assert [name for name, _ in found.fees] == [fee]


def test_googles_maps_are_billed_beside_tokens() -> None:
    grounding = {"groundingChunks": [{"maps": {"uri": "https://maps.example.com"}}]}
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP", "groundingMetadata": grounding}
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}
    found = read("gemini", {"candidates": [candidate], "usageMetadata": usage}).usage
    assert found is not None
    assert found.fees == (("maps_requests", 1),)


def test_pictures_in_an_answer_are_output_of_their_own_kind() -> None:
    usage = {**USAGE, "completion_tokens_details": {"image_tokens": 4}}
    found = read("openai", message({"content": "", "images": [{"type": "image_url"}]}, usage=usage)).usage
    assert found is not None
    assert found.modalities == (("output_image", 4),)


# Refusals that quote the request


@pytest.mark.parametrize("status", [400, 422])
def test_words_that_a_refusal_quotes_from_the_request_say_nothing_of_the_account(status: int) -> None:
    """vLLM and FastAPI quote the field that they don't take: one row's text must not take the key away from all others."""
    asked = "How do I recharge my card?\nI have no credits left, and my credit limit is reached."
    quoted = f"1 validation error for messages.0: input_value={{'role': 'usr', 'content': {asked!r}}}"
    refusal = {"object": "error", "message": quoted.replace("\\n", "\n"), "type": "BadRequestError", "code": status}
    messages = [{"role": "usr", "content": asked}]
    assert refused(status, refusal, messages).kind == "bad_request"
    if status == 400:
        assert refused(status, refusal, [{"role": "usr", "content": "x"}]).kind == "quota"


def test_an_account_without_money_is_known_though_the_request_speaks_of_money_too() -> None:
    messages = [{"role": "user", "content": "What does insufficient balance mean, and what a recharge?"}]
    for message in (
        "Insufficient balance",
        "Error: insufficient balance. Please recharge.",
        "Your credit balance is too low",
    ):
        assert refused(400, {"error": {"message": message}}, messages).kind == "quota"
    quoting = [{"role": "user", "content": "Explain: Error: insufficient balance. Please recharge."}]
    assert (
        refused(402, {"error": {"message": "Error: insufficient balance. Please recharge."}}, quoting).kind == "quota"
    )


def refused(status: int, body: Any, messages: list[Any]) -> Failure:
    tree = {"id": "openai", "base_url": "https://api.example.com/v1", "keys": [{"id": "k", "secret": KEY}]}
    provider = DIALECTS["openai"](ProviderConfig.model_validate(tree), NoSender())
    reply = Reply(status, {"date": DATE, "content-type": "application/json"}, orjson.dumps(body))
    failure = provider.read(Request("m-1", {"messages": messages}, KEY), reply).failure
    assert failure is not None
    return failure
