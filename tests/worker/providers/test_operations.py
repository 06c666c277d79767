"""What can be asked for besides chat: built untouched or translated, streams put together or cut, over real HTTP at the sandbox.

What single bodies mean is in golden/openai-*.yaml and golden/gemini-embeddings.yaml.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest

from models.errors import Untranslatable
from models.formats.vectors import members, vectors_in
from models.request import FailureKind, Request, Response, Usage
from tests.worker.providers.test_sandbox import ask, tokens
from tests.worker.providers.test_streams import data
from tests.worker.providers.test_translation import make
from worker.providers.base import Reply
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.sandbox.settings import Fault

BODIES: dict[str, dict[str, Any]] = {
    "responses": {"model": "gpt-5.4-mini", "instructions": "Be brief.", "input": "hello there", "reasoning": {}},
    "completions": {"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon a time", "max_tokens": 40},
    "embeddings": {"model": "text-embedding-3-small", "input": ["one", "two"], "dimensions": 4},
}
STREAMED = ("responses", "completions")
every = pytest.mark.parametrize("operation", BODIES)
streamed = pytest.mark.parametrize("operation", STREAMED)


def own(operation: str, **fields: Any) -> Request:
    source = {**BODIES[operation], **fields}
    return Request(
        source["model"],
        source,
        KEY,
        dialect="openai",
        operation=operation,
        body=orjson.dumps(source, option=orjson.OPT_INDENT_2),
    )


@every
def test_a_body_goes_untouched_to_the_endpoint_of_its_line(operation: str) -> None:
    request = own(operation)
    call = make(OpenAI).build(request)
    assert call.url == f"https://api.example.com/v1/{operation}"
    assert call.body == request.body


def test_a_response_in_the_background_is_refused_before_it_is_paid() -> None:
    with pytest.raises(Untranslatable) as refused:
        make(OpenAI).build(own("responses", background=True))
    assert refused.value.field == "background"


def test_a_simple_line_asks_for_chat_or_embeddings_only() -> None:
    with pytest.raises(Untranslatable):
        make(OpenAI).build(Request("m", {"input": "hi"}, KEY, operation="responses"))


def embed(texts: Any, model: str = "gemini-embedding-001", dialect: str = "simple", **fields: Any) -> Request:
    return Request(model, {"input": texts, **fields}, KEY, dialect=dialect, operation="embeddings")


def test_a_simple_line_for_embeddings_goes_to_openai_as_it_is() -> None:
    call = make(OpenAI).build(embed(["a", "b"], "m", dimensions=8))
    assert call.url == "https://api.example.com/v1/embeddings"
    assert orjson.loads(call.body or b"") == {"model": "m", "input": ["a", "b"], "dimensions": 8}


@pytest.mark.parametrize("dialect", ["simple", "openai"])
@pytest.mark.parametrize("texts", ["a", ["a"]])
def test_embeddings_are_translated_for_gemini(texts: Any, dialect: str) -> None:
    shared = {"dimensions": 8, "task_type": "RETRIEVAL_DOCUMENT", "title": "T", "encoding_format": "float"}
    call = make(Gemini).build(embed(texts, dialect=dialect, **shared))
    assert call.url == "https://api.example.com/v1/models/gemini-embedding-001:batchEmbedContents"
    asked = {
        "model": "models/gemini-embedding-001",
        "content": {"parts": [{"text": "a"}]},
        "taskType": "RETRIEVAL_DOCUMENT",
        "title": "T",
        "outputDimensionality": 8,
    }
    assert orjson.loads(call.body or b"") == {"requests": [asked]}


@pytest.mark.parametrize(
    ("source", "action"),
    [
        ({"content": {"parts": [{"text": "a"}]}}, "embedContent"),
        ({"requests": [{"content": {}}]}, "batchEmbedContents"),
    ],
)
def test_geminis_own_bodies_for_embeddings_go_untouched(source: dict[str, Any], action: str) -> None:
    body = orjson.dumps(source, option=orjson.OPT_INDENT_2)
    request = Request("models/e-1", source, KEY, dialect="gemini", operation="embeddings", body=body)
    call = make(Gemini).build(request)
    assert (call.url, call.body) == (f"https://api.example.com/v1/models/e-1:{action}", body)


@pytest.mark.parametrize(
    ("texts", "fields", "field"),
    [
        ([1, 2], {}, "input"),
        ([[1], [2]], {}, "input"),
        ([], {}, "input"),
        ("a", {"encoding_format": "base64"}, "encoding_format"),
        ("a", {"user": "u"}, "user"),
    ],
)
def test_what_gemini_has_no_place_for_is_named(texts: Any, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        make(Gemini).build(embed(texts, **fields))
    assert refused.value.field == field


def test_gemini_books_no_output_for_vectors() -> None:
    booked = make(Gemini).charge(embed("a"), 100, 1000)
    assert (booked.tokens, booked.input_tokens, booked.output_tokens) == (100, 100, 0)


@every
def test_claude_has_none_of_these_endpoints(operation: str) -> None:
    with pytest.raises(Untranslatable, match=operation):
        make(Claude).build(Request("m", {"input": "hi"}, KEY, operation=operation))


# What the limits book: see `charge` in the provider


@pytest.mark.parametrize(
    ("operation", "fields", "tokens_booked"),
    [
        ("responses", {}, 100),  # the estimate of the input
        ("responses", {"max_output_tokens": 900}, 900),
        ("completions", {"max_tokens": 900}, 900),
        ("completions", {"max_tokens": 300, "n": 2, "best_of": 3, "prompt": ["a", "b"]}, 1800),  # 300 x 3 x 2 prompts
        ("completions", {"max_tokens": None, "n": 10}, 160),  # 16 where none is named
        ("completions", {"prompt": [7] * 500}, 500),  # token numbers are counted, not estimated
        ("embeddings", {}, 100),
        ("embeddings", {"input": [[7] * 300, [8] * 200]}, 500),
    ],
)
def test_a_minutes_tokens_are_booked_as_openai_counts_them(
    operation: str, fields: dict[str, Any], tokens_booked: int
) -> None:
    booked = make(OpenAI).charge(own(operation, **fields), 100, 1000)
    assert booked.tokens == tokens_booked
    assert booked.output_tokens == (0 if operation == "embeddings" else 1000)


# Streams

PIECE = {"item_id": "m", "output_index": 1, "content_index": 0}
FINAL = {
    "id": "resp_1",
    "status": "completed",
    "model": "m-1",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
    "usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
}
RESPONSES: list[dict[str, Any]] = [
    {"type": "response.created", "response": {**FINAL, "status": "in_progress", "output": [], "usage": None}},
    {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "summary": []}},
    {"type": "response.output_item.added", "output_index": 1, "item": {"type": "message", "content": []}},
    {"type": "response.output_text.delta", **PIECE, "delta": "Hel"},
    {"type": "response.some_new_event", "delta": {"x": 1}},
    {"type": "response.output_text.delta", **PIECE, "delta": "lo"},
    {"type": "response.output_text.done", **PIECE, "text": "Hello"},
    {"type": "response.completed", "response": FINAL},
]
COMPLETIONS: list[dict[str, Any]] = [
    {"id": "cmpl-1", "model": "m-1", "choices": [{"index": 0, "text": "Hel", "finish_reason": None}], "usage": None},
    {"id": "cmpl-1", "choices": [{"index": 0, "text": "lo", "logprobs": {"tokens": ["lo"]}}]},
    {"id": "cmpl-1", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]},
    {"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
]


def pieces(operation: str) -> list[bytes]:
    if operation == "responses":
        return [data(event, event["type"]) for event in RESPONSES]
    return [*(data(chunk) for chunk in COMPLETIONS), data(b"[DONE]")]


FINISHED_AT = {"responses": len(RESPONSES), "completions": 3}


def read(operation: str, body: bytes, content_type: str = "text/event-stream") -> Response:
    return make(OpenAI).read(own(operation, stream=True), Reply(200, {"content-type": content_type}, body))


@streamed
def test_a_stream_is_put_together(operation: str) -> None:
    response = read(operation, b"".join(pieces(operation)))
    assert response.failure is None
    assert (response.text, response.usage, response.served_model) == ("Hello", Usage(9, 4), "m-1")
    assert response.finish_reason == ("completed" if operation == "responses" else "stop")
    plain = read(operation, response.raw_response, "application/json")
    assert (plain.text, plain.usage, plain.failure) == (response.text, response.usage, None)


@streamed
def test_a_stream_cut_anywhere_is_never_a_success(operation: str) -> None:
    parts = pieces(operation)
    whole = b"".join(parts[: FINISHED_AT[operation]])
    for cut in range(len(whole) - 2):  # without its last line break an event counts all the same
        failure = read(operation, whole[:cut]).failure
        assert failure is not None, whole[:cut]
        assert (failure.kind, failure.code) == (FailureKind.NETWORK, "truncated")


def test_a_cut_stream_keeps_what_came_of_it() -> None:
    response = read("responses", b"".join(pieces("responses")[:6]))
    assert response.text == "Hello"
    assert orjson.loads(response.raw_response)["output"][0] == {"type": "reasoning", "summary": []}


@pytest.mark.parametrize("last", ["failed", "incomplete", "error", "gateway"])
def test_a_stream_that_ends_badly_is_the_providers_own_failure(last: str) -> None:
    reason = {"code": "server_error", "message": "Oops"}
    ends: dict[str, dict[str, Any]] = {
        "failed": {"type": "response.failed", "response": {**FINAL, "status": "failed", "error": reason}},
        "incomplete": {"type": "response.incomplete", "response": {**FINAL, "status": "incomplete"}},
        "error": {"type": "error", **reason, "param": None},
        "gateway": {"error": reason},
    }
    response = read("responses", b"".join(pieces("responses")[:4]) + data(ends[last], last))
    assert response.failure is not None
    assert response.failure.kind is FailureKind.SERVER
    assert (response.usage is not None) is (last in ("failed", "incomplete"))  # what failed late may be billed


def test_a_stream_cut_by_its_bound_is_an_answer() -> None:
    final = {**FINAL, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    response = read("responses", data({"type": "response.incomplete", "response": final}))
    assert (response.failure, response.finish_reason) == (None, "max_output_tokens")


# Vectors


def test_a_reply_of_many_vectors_is_read_without_their_numbers() -> None:
    numbers = b"[" + b",".join([b"-0.012345678901234567"] * 1536) + b"]"
    entries = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % (at, numbers) for at in range(256))
    body = b'{"object":"list","data":[%b],"model":"m","usage":{"prompt_tokens":9,"total_tokens":9}}' % entries
    request = Request("m", {"input": ["x"] * 256}, KEY, dialect="openai", operation="embeddings", body=b"{}")
    provider = make(OpenAI)
    tracemalloc.start()
    response = provider.read(request, Reply(200, {}, body))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (response.failure, response.usage, response.text) == (None, Usage(9, 0), None)
    assert response.raw_response is body
    assert most < len(body) / 4  # as floats they would be more than the body


@pytest.mark.parametrize("cut", [1, 40, 90, 120])
def test_a_reply_of_vectors_that_is_cut_is_unreadable(cut: int) -> None:
    body = orjson.dumps({"data": [{"index": 0, "embedding": [0.5] * 20}], "usage": {"prompt_tokens": 1}})
    request = Request("m", {"input": "x"}, KEY, dialect="openai", operation="embeddings", body=b"{}")
    failure = make(OpenAI).read(request, Reply(200, {}, body[:cut])).failure
    assert failure is not None
    assert failure.code == "unreadable_reply"


# Against the sandbox


@pytest.mark.parametrize(
    ("dialect", "model"), [("openai", "text-embedding-3-small"), ("gemini", "gemini-embedding-001")]
)
@pytest.mark.parametrize("texts", ["one", ["one", "two", "three"]])
def test_texts_become_vectors_at_both_vendors(dialect: Any, model: str, texts: Any) -> None:
    response, row = ask(dialect, embed(texts, model, dimensions=4))
    assert response.failure is None
    assert tokens(response) == {name: row[name] for name in tokens(response)}
    assert row["output_tokens"] == 0
    vectors = vectors_in(members(response.raw_response))
    assert vectors is not None
    assert [len(orjson.loads(bytes(vector))) for vector in vectors] == [4] * (1 if texts == "one" else 3)


@every
def test_an_answer_and_its_usage_are_what_the_sandbox_says(operation: str) -> None:
    response, row = ask("openai", own(operation))
    assert response.failure is None
    assert row["path"] == f"/openai/v1/{operation}"
    assert response.served_model == BODIES[operation]["model"]
    assert tokens(response)["input_tokens"] == row["input_tokens"] > 0
    assert tokens(response)["output_tokens"] == row["output_tokens"]
    if operation == "embeddings":
        assert (response.text, row["output_tokens"]) == (None, 0)
        assert [len(one["embedding"]) for one in orjson.loads(response.raw_response)["data"]] == [4, 4]
    else:
        assert response.text
        assert response.text.startswith(row["prompt_sha"][:8])


@streamed
def test_a_stream_gives_what_a_whole_reply_gives(operation: str) -> None:
    options = {} if operation == "responses" else {"stream_options": {"include_usage": True}}
    whole, _ = ask("openai", own(operation))
    stream, _ = ask("openai", own(operation, stream=True, **options))
    assert stream.failure is None
    assert (stream.text, stream.usage, stream.finish_reason) == (whole.text, whole.usage, whole.finish_reason)
    assert orjson.loads(stream.raw_response) == orjson.loads(whole.raw_response)


@streamed
def test_an_answer_cut_by_its_bound_is_an_answer(operation: str) -> None:
    bound = {"max_output_tokens": 16} if operation == "responses" else {"max_tokens": 3}
    response, row = ask("openai", own(operation, **bound), output_tokens=30)
    assert response.failure is None
    assert response.finish_reason in ("max_output_tokens", "length")
    assert tokens(response)["output_tokens"] == row["output_tokens"] == next(iter(bound.values()))


@streamed
@pytest.mark.parametrize("kind", ["cut_stream", "stalled_stream", "no_done", "error_in_200"])
def test_a_broken_stream_is_never_a_success(operation: str, kind: Any) -> None:
    response, row = ask("openai", own(operation, stream=True), Fault(kind=kind))
    assert row["fault"] == kind
    if (operation, kind) == ("completions", "no_done"):
        assert response.failure is None  # every choice has its finish_reason; only [DONE] is missing
        return
    assert response.failure is not None
    assert response.failure.kind in (FailureKind.NETWORK, FailureKind.SERVER)


@every
@pytest.mark.parametrize("kind", ["error_in_200", "truncated", "rubbish", "empty", "rate_limit", "overloaded"])
def test_a_fault_is_a_failure_on_every_endpoint(operation: str, kind: Any) -> None:
    response, _ = ask("openai", own(operation), Fault(kind=kind))
    assert response.failure is not None
    assert response.usage is None


def test_a_filtered_response_is_billed() -> None:
    response, row = ask("openai", own("responses"), Fault(kind="content_filter"))
    assert response.failure is not None
    assert response.failure.kind is FailureKind.CONTENT_FILTER
    assert tokens(response)["output_tokens"] == row["output_tokens"] == 1


def test_flex_without_room_is_the_servers_own_trouble_and_so_retried() -> None:
    fault = Fault(kind="status", status=429, code="resource_unavailable", message="Resource Unavailable")
    response, _ = ask("openai", own("responses", service_tier="flex"), fault)
    assert response.failure is not None
    assert (response.failure.kind, response.failure.code) == (FailureKind.SERVER, "resource_unavailable")


def test_a_stream_in_its_own_dialect_is_asked_to_tell_its_usage_and_otherwise_left_as_it_is() -> None:
    body = b'{"model": "m-1", "n":1.0, "stream":true, "messages":[{"role":"user","content":"\\u00e9"}]}'
    request = Request("m-1", orjson.loads(body), dialect="openai", body=body)
    sent = make(OpenAI).build(request).body
    assert sent is not None
    assert orjson.loads(sent) == {**orjson.loads(body), "stream_options": {"include_usage": True}}
    assert b'"n":1.0' in sent
    assert b"\\u00e9" in sent
    refused = body.replace(b'"stream":true', b'"stream":true, "stream_options":{"include_usage":false}')
    assert make(OpenAI).build(Request("m-1", orjson.loads(refused), dialect="openai", body=refused)).body == refused
