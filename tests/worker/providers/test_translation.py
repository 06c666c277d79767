"""What each dialect makes of a simple line, of a body with another model, and of what it has no place for.

It sends nothing.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.config import ProviderConfig
from models.errors import Untranslatable
from models.request import Request, Usage
from worker.providers.base import Call, Provider
from worker.providers.claude import Claude
from worker.providers.contract import KEY, NoSender
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be terse."},
    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "text", "text": "Say."}]},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
]
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
LINK = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "auto"}}


def make(kind: type[Provider], **changes: Any) -> Provider:
    values = {"id": "p", "base_url": "https://api.example.com/v1", "keys": [{"id": "k", "secret": KEY}], **changes}
    values.setdefault("type", kind.dialect)
    return kind(ProviderConfig.model_validate(values), NoSender())


def build(kind: type[Provider], messages: Any, model: str = "m", *, config: Any = None, **fields: Any) -> Call:
    return make(kind, **(config or {})).build(Request(model, {"messages": messages, **fields}, KEY))


def body_of(call: Call) -> Any:
    return orjson.loads(call.body or b"null")


def test_openai_takes_every_field_as_it_is() -> None:
    call = build(OpenAI, TALK, max_tokens=5, vendor_field={"x": None}, stop="END")
    assert call.url == "https://api.example.com/v1/chat/completions"
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert body_of(call) == {
        "model": "m",
        "messages": TALK,
        "max_tokens": 5,
        "vendor_field": {"x": None},
        "stop": "END",
    }


def test_openai_asks_a_simple_stream_for_its_usage_and_leaves_a_stated_choice_alone() -> None:
    assert body_of(build(OpenAI, HI, stream=True))["stream_options"] == {"include_usage": True}
    stated = body_of(build(OpenAI, HI, stream=True, stream_options={"include_usage": False}))
    assert stated["stream_options"] == {"include_usage": False}
    assert "stream_options" not in body_of(build(OpenAI, HI))


def test_claude_gets_system_texts_apart_and_max_tokens_always() -> None:
    call = build(Claude, TALK, temperature=0.5, top_p=0.9, stop="END", user="u1", n=1, seed=None)
    assert call.url == "https://api.example.com/v1/messages"
    assert call.headers["x-api-key"] == KEY
    assert call.headers["anthropic-version"] == "2023-06-01"
    assert body_of(call) == {
        "model": "m",
        "max_tokens": 4096,
        "system": "Be terse.\n\nBe kind.",
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is this?"}, {"type": "text", "text": "Say."}],
            },
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Sure?"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u1"},
    }


@pytest.mark.parametrize(
    ("fields", "bound"),
    [({}, 100), ({"max_tokens": 7}, 7), ({"max_completion_tokens": 8}, 8), ({"max_tokens": None}, 100)],
)
def test_claude_is_bound_by_the_line_else_by_the_configuration(fields: dict[str, Any], bound: int) -> None:
    provider = make(Claude, max_tokens=100)
    request = Request("m", {"messages": HI, **fields}, KEY)
    assert body_of(provider.build(request))["max_tokens"] == bound
    assert provider.max_output_tokens(request) == bound


def test_claude_takes_images_as_data_and_by_link() -> None:
    content = body_of(build(Claude, [{"role": "user", "content": [PIXEL, LINK]}]))["messages"][0]["content"]
    assert content == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
    ]


def test_claude_takes_a_schema() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}}}
    body = body_of(build(Claude, HI, response_format=form))
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k"])
def test_claude_refuses_sampling_where_the_api_version_does(field: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        build(Claude, HI, config={"anthropic_version": "2026-10-21"}, **{field: 1})
    assert (refused.value.field, "2026-10-21" in str(refused.value)) == (field, True)


def test_gemini_gets_contents_and_a_generation_config() -> None:
    call = build(
        Gemini,
        TALK,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        max_tokens=7,
        stop=["A", "B"],
        seed=3,
        n=2,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        response_format={"type": "json_object"},
    )
    assert call.url == "https://api.example.com/v1/models/m:generateContent"
    assert call.headers["x-goog-api-key"] == KEY
    assert body_of(call) == {
        "systemInstruction": {"parts": [{"text": "Be terse."}, {"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "What is this?"}, {"text": "Say."}]},
            {"role": "model", "parts": [{"text": "A cat."}]},
            {"role": "user", "parts": [{"text": "Sure?"}]},
        ],
        "generationConfig": {
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 4,
            "maxOutputTokens": 7,
            "stopSequences": ["A", "B"],
            "seed": 3,
            "candidateCount": 2,
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "responseMimeType": "application/json",
        },
    }


def test_gemini_without_settings_gets_no_config_and_images_as_data() -> None:
    assert body_of(build(Gemini, [{"role": "user", "content": [PIXEL]}])) == {
        "contents": [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]}]
    }


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-3.5-flash", "/models/gemini-3.5-flash:generateContent"),
        ("models/gemini-3.5-flash", "/models/gemini-3.5-flash:generateContent"),
        ("tunedModels/mine-1", "/tunedModels/mine-1:generateContent"),
        ("a/../b?key=1#x y", "/models/a%2F..%2Fb%3Fkey%3D1%23x%20y:generateContent"),
    ],
)
def test_gemini_puts_the_model_into_the_url_and_nothing_else(model: str, path: str) -> None:
    assert build(Gemini, HI, model).url == f"https://api.example.com/v1{path}"


def test_gemini_streams_by_its_url() -> None:
    call = build(Gemini, HI, stream=True, stream_options={"include_usage": True})
    assert call.url.endswith("/models/m:streamGenerateContent?alt=sse")
    assert "stream" not in body_of(call)


@pytest.mark.parametrize("kind", [OpenAI, Claude])
def test_another_model_changes_that_field_only(kind: type[Provider]) -> None:
    body = b'{"model": "old", "temperature": 1.00, "seed": 123456789012345678901234567890, "messages":  [ "\\u00e9" ]}'
    source = {"model": "old", "temperature": 1.0, "messages": ["é"]}
    changed = make(kind).build(Request("new", source, KEY, dialect=kind.dialect, body=body)).body
    assert changed == (
        b'{"model":"new","temperature":1.00,"seed":123456789012345678901234567890,"messages":[ "\\u00e9" ]}'
    )


def test_a_body_without_bytes_is_written_from_its_fields() -> None:
    request = Request("m", {"contents": []}, KEY, dialect="gemini")
    assert make(Gemini).build(request).body == b'{"contents":[]}'
    assert make(OpenAI).build(Request("m", {"model": "m"}, KEY, dialect="openai")).body == b'{"model":"m"}'


@pytest.mark.parametrize("kind", [Claude, Gemini])
@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ("hi", "messages"),
        ([], "messages"),
        ([{"role": "system", "content": "only"}], "messages"),
        (["hi"], "messages[0]"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "narrator", "content": "x"}], "messages[0].role"),
        ([{"role": "tool", "content": "x"}], "messages[0]"),
        ([{"role": "tool", "content": "x", "tool_call_id": "1"}], "messages[0]"),
        ([{"role": "user", "content": "x", "name": "bob"}], "messages[0].name"),
        ([*HI, {"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}], "messages[1].tool_calls[0]"),
        ([*HI, {"role": "assistant", "content": "x", "audio": {"id": "1"}}], "messages[1].audio"),
        ([*HI, {"role": "system", "content": "late"}], "messages[1]"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].input_audio"),
        ([{"role": "user", "content": [{"type": "video"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{**PIXEL, "cache": 1}]}], "messages[0].content[0].cache"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "ftp://x"}}]}],
            "messages[0].content[0].image_url",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x", "detail": "low"}}]}],
            "messages[0].content[0].image_url.detail",
        ),
    ],
)
def test_a_message_that_has_no_place_is_refused_with_its_place(kind: type[Provider], messages: Any, field: str) -> None:
    with pytest.raises(Untranslatable) as refused:
        build(kind, messages)
    assert refused.value.field == field
    assert field in str(refused.value)


def test_gemini_refuses_image_links_and_claude_a_json_mode() -> None:
    with pytest.raises(Untranslatable, match="image_url can't be translated for Gemini"):
        build(Gemini, [{"role": "user", "content": [LINK]}])
    with pytest.raises(Untranslatable, match="response_format can't be translated for Claude"):
        build(Claude, HI, response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("kind", "booked", "settled"),
    [
        (OpenAI, 500, 500),  # the larger of max_tokens 500 and input 100; nothing is refunded
        (Gemini, 100, 90),  # input only
        (Claude, 120, 60),  # input 100 + output 20; then 90 - 60 cached + 30
    ],
)
def test_each_dialect_books_and_settles_by_its_own_rule(kind: type[Provider], booked: int, settled: int) -> None:
    provider = make(kind)
    charge = provider.charge(Request("m", {"messages": HI, "max_tokens": 500}, KEY), 100, 20)
    assert charge.tokens == booked
    assert provider.settled(charge, Usage(90, 30, cached_tokens=60)).tokens == settled


def test_openai_books_its_input_where_no_bound_is_given() -> None:
    assert make(OpenAI).charge(Request("m", {"messages": HI}, KEY), 100, 20).tokens == 100


def test_gemini_reads_the_bound_of_its_own_bodies_in_both_spellings() -> None:
    for config in ({"generationConfig": {"maxOutputTokens": 9}}, {"generation_config": {"max_output_tokens": 9}}):
        assert make(Gemini).max_output_tokens(Request("m", config, KEY, dialect="gemini")) == 9
    assert make(Gemini).max_output_tokens(Request("m", {"max_tokens": 9}, KEY, dialect="gemini")) is None
