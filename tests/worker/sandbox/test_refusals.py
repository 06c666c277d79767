"""What the real providers refuse, refused here in their words: accounts, endpoints, models' own rules, shapes of fields."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from tests.worker.sandbox.conftest import KEY, Play, Played

pytestmark = pytest.mark.parametrize("play", ["uvloop"], indirect=True)

OBJECT = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CLOSED = {**OBJECT, "additionalProperties": False}
FLAT = {"type": "function", "name": "get_w", "parameters": OBJECT}
CALL = {"type": "function_call", "call_id": "c1", "name": "get_w", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}


def openai(played: Played, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
    base = {"chat/completions": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}
    fields = base.get(path, {"model": "m", "input": "hi"})
    sent = {name: value for name, value in {**fields, **body}.items() if value is not None}
    headers = {"authorization": f"Bearer {KEY}", **(headers or {})}
    return played.client.post(f"{played.box.url}/openai/v1/{path}", headers=headers, json=sent)


def claude(played: Played, version: str = "2023-06-01", **body: Any) -> Any:
    fields = {"model": "m", "max_tokens": 2000, "messages": [{"role": "user", "content": "hi"}], **body}
    headers = {"x-api-key": KEY, "anthropic-version": version}
    return played.client.post(f"{played.box.url}/claude/v1/messages", headers=headers, json=fields)


def gemini(played: Played, model: str = "gemini-3.5-flash", **body: Any) -> Any:
    fields = {"contents": [{"parts": [{"text": "hi"}]}], **body}
    url = f"{played.box.url}/gemini/v1/models/{model}:generateContent"
    return played.client.post(url, headers={"x-goog-api-key": KEY}, json=fields)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"openai-organization": "org-a", "openai-project": "proj-a"}, None),
        ({"openai-organization": "org-b"}, "mismatched_organization"),
        ({"openai-organization": "org-a", "openai-project": "proj-b"}, "mismatched_project"),
    ],
)
def test_a_key_answers_only_for_its_own_organization_and_project(
    play: Play, headers: dict[str, str], code: str | None
) -> None:
    played = play(accounts=[{"provider": "openai", "key": KEY, "organization": "org-a", "project": "proj-a"}])
    answer = openai(played, "chat/completions", headers)
    listed = played.client.get(
        f"{played.box.url}/openai/v1/models", headers={"authorization": f"Bearer {KEY}", **headers}
    )
    assert answer.status_code == listed.status_code == (401 if code else 200)
    if code:
        what = code.removeprefix("mismatched_")
        message = f"OpenAI-{what.capitalize()} header should match {what} for API key"
        wanted = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        assert answer.json() == {"error": wanted} == listed.json()


def test_accounts_of_others_have_no_organization(play: Play) -> None:
    with pytest.raises(ValidationError, match="OpenAI's"):
        play(accounts=[{"provider": "claude", "key": "k", "organization": "org-a"}])


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-4o"), ("gemini", "gemini-3.5-flash"), ("claude", "claude-haiku-4-5")]
)
def test_a_model_whose_day_has_come_is_gone_and_one_whose_day_will_come_answers(
    play: Play, provider: str, model: str
) -> None:
    for day, status in (("2020-01-01", 404), ("2990-01-01", 200)):
        played = play(retirements={model: day})
        assert played.ask(provider, model=model).status_code == status


@pytest.mark.parametrize(
    ("path", "model", "status", "words"),
    [
        ("completions", "gpt-4o", 404, "This is a chat model"),
        ("completions", "gpt-3.5-turbo-instruct", 200, ""),
        ("chat/completions", "gpt-3.5-turbo-instruct", 404, "This is not a chat model"),
        ("chat/completions", "text-embedding-3-small", 404, "This is not a chat model"),
        ("embeddings", "gpt-4o", 403, "not allowed to generate embeddings"),
        ("embeddings", "text-embedding-3-small", 200, ""),
    ],
)
def test_a_model_is_served_at_its_own_endpoint(play: Play, path: str, model: str, status: int, words: str) -> None:
    played = play()
    more = {"prompt": "hi", "input": None} if path == "completions" else {}
    answer = openai(played, path, None, model=model, **more)
    assert answer.status_code == status
    assert words in answer.text
    assert openai(play(strict_models=False), path, None, model=model, **more).status_code == 200


@pytest.mark.parametrize("model", ["o3", "gpt-5-mini", "gpt-6-luna", "ft:gpt-6.1-sol:me::x"])
@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("temperature", 0.5, "unsupported_value"),
        ("top_p", 0.9, "unsupported_parameter"),
        ("top_logprobs", 2, "unsupported_parameter"),
        ("temperature", 1, None),
    ],
)
def test_a_model_that_reasons_takes_only_the_usual_sampling(
    play: Play, model: str, field: str, value: float, code: str | None
) -> None:
    played = play()
    more = {"logprobs": True} if field == "top_logprobs" else {}
    for path, none in (
        ("chat/completions", {"reasoning_effort": "none"}),
        ("responses", {"reasoning": {"effort": "none"}}),
    ):
        extra = more if path == "chat/completions" else {}
        answer = openai(played, path, None, model=model, **{field: value}, **extra)
        assert answer.status_code == (400 if code else 200), answer.text
        if code:
            assert answer.json()["error"]["code"] == code
            assert openai(played, path, None, model=model, **{field: value}, **extra, **none).status_code == 200


def test_a_model_that_does_not_reason_takes_any_sampling(play: Play) -> None:
    assert openai(play(), "responses", None, model="gpt-5.4-mini", temperature=0.3, top_p=0.5).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name", "Missing"),
        ({"tools": [{**FLAT, "function": {}}]}, "tools[0].function", "Unknown parameter"),
        ({"tools": [{"type": "search"}]}, "tools[0].type", "Supported values"),
        ({"tools": [{**FLAT, "strict": True}]}, "tools[0].parameters", "additionalProperties"),
        (
            {"tools": [{**FLAT, "parameters": {"type": "string"}}]},
            "tools[0].parameters",
            "schema must be a JSON Schema of 'type: \"object\"'",
        ),
        ({"tool_choice": "required"}, "tool_choice", "only allowed when 'tools'"),
        ({"tools": [FLAT], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "not found"),
        ({"text": {"format": {"type": "json_object"}}}, "input", "must contain the word 'json'"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": OBJECT, "strict": True}}},
            "text.format.schema",
            "additionalProperties",
        ),
        ({"text": {"verbosity": "much"}}, "text.verbosity", "Supported values"),
        ({"input": [OUTPUT]}, "input", "No tool call found for function call output with call_id c1."),
        ({"input": [CALL]}, "input", "No tool output found for function call c1."),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name", "Missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "input[0].content[0].type",
            "input_text",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
            "input[0].content[0].type",
            "output_text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": {"url": "x"}}]}]},
            "input[0].content[0].image_url",
            "expected a string",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "Missing",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].file_id", "Missing"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "Supported values"),
        ({"reasoning": "high"}, "reasoning", "expected an object"),
        ({"include": ["everything"]}, "include[0]", "Supported values"),
        ({"truncation": "some"}, "truncation", "Supported values"),
        ({"store": "no"}, "store", "expected a boolean"),
        ({"metadata": {"job": 1}}, "metadata.job", "expected a string"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata", "at most 16"),
        ({"background_options": {"completion_window": "2h"}}, "background_options", "only allowed when 'background'"),
        (
            {"background": True, "background_options": {"completion_window": "8h"}, "service_tier": "flex"},
            "background_options.completion_window",
            "no service tier",
        ),
        ({"service_tier": "slow"}, "service_tier", "ultrafast"),
    ],
)
def test_a_response_that_openai_would_refuse(play: Play, body: dict[str, Any], param: str, words: str) -> None:
    answer = openai(play(), "responses", None, **body)
    assert answer.status_code == 400
    found = answer.json()["error"]
    assert (found["param"], found["type"]) == (param, "invalid_request_error")
    assert words in found["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"role": "user", "content": "Weather?"}, CALL, OUTPUT], "tools": [FLAT]},
        {"input": [OUTPUT], "previous_response_id": "resp_1"},
        {"tools": [{**FLAT, "parameters": CLOSED, "strict": True}, {"type": "web_search"}]},
        {"service_tier": "ultrafast"},
        {"background": True, "background_options": {"completion_window": "2h"}},
    ],
)
def test_a_response_that_openai_would_take(play: Play, body: dict[str, Any]) -> None:
    answer = openai(play(), "responses", None, **copy.deepcopy(body))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"verbosity": "much"}, "verbosity"),
        ({"prompt_cache_retention": "7d"}, "prompt_cache_retention"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"web_search_options": {}, "model": "gpt-4o"}, "web_search_options"),
    ],
)
def test_a_chat_that_openai_would_refuse(play: Play, body: dict[str, Any], param: str) -> None:
    answer = openai(play(), "chat/completions", None, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


MARK = {"cache_control": {"type": "ephemeral"}}
TEXT = {"type": "text", "text": "x"}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}


def turns(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    sides = ("user", "assistant", "user")
    return [{"role": side, "content": [block]} for side, block in zip(sides, blocks, strict=False)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"model": "claude-sonnet-5-5", "temperature": 1}, "`temperature` is not supported"),
        ({"model": "claude-opus-4-7", "top_k": 3}, "`top_k` is not supported"),
        (
            {"model": "claude-fable-5", "thinking": {"type": "enabled", "budget_tokens": 1024}},
            "thinking.type.adaptive",
        ),
        ({"system": [{**TEXT, "cache_control": {"type": "eternal"}}]}, "system.0.cache_control.type"),
        (
            {"messages": turns({**TEXT, "cache_control": {"type": "ephemeral", "ttl": "2h"}})},
            "messages.0.content.0.cache_control.ttl",
        ),
        (
            {"system": [{**TEXT, **MARK}] * 4, **MARK},
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        ({"metadata": {"job": "1"}}, "metadata.job: Extra inputs"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "`max_tokens` must be greater"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, "greater than or equal to 1024"),
    ],
)
def test_a_message_that_anthropic_would_refuse(play: Play, body: dict[str, Any], words: str) -> None:
    answer = claude(play(), **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"model": "claude-sonnet-5-5", "thinking": {"type": "adaptive"}},
        {"model": "claude-haiku-4-5", "temperature": 0.2, "thinking": {"type": "disabled"}},
        {"system": [{**TEXT, **MARK}] * 3, **MARK},
        {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"cache_control": {"type": "x"}}}}]},
    ],
)
def test_a_message_that_anthropic_would_take(play: Play, body: dict[str, Any]) -> None:
    answer = claude(play(), **copy.deepcopy(body))
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"temperature": 1}, "temperature: Extra inputs are not permitted"),
        ({"top_p": 1}, "top_p: Extra inputs are not permitted"),
        ({"messages": turns(TEXT, DOCUMENT, TEXT)}, "`document` blocks are not permitted in assistant content"),
        ({"messages": turns({**TEXT, "citations": [{"type": "char_location"}]})}, "text.citations: Extra inputs"),
    ],
)
def test_the_newest_version_of_anthropics_api_refuses_what_the_one_before_takes(
    play: Play, body: dict[str, Any], words: str
) -> None:
    played = play()
    assert claude(played, **copy.deepcopy(body)).status_code == 200
    answer = claude(played, "2026-10-21", **copy.deepcopy(body))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tools": [{"googleSearchRetrieval": {}}]}, "use google_search"),
        ({"safetySettings": [{"category": "HARM", "threshold": "OFF"}]}, "safety_settings[0].category"),
        ({"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "ALL"}]}, "threshold"),
        (
            {"safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}] * 2},
            "is set twice",
        ),
        (
            {"generationConfig": {"responseMimeType": "application/json", "responseSchema": CLOSED}},
            "Unknown name \"additionalProperties\" at 'generation_config.response_schema'",
        ),
        (
            {"generationConfig": {"responseMimeType": "application/json", "responseSchema": {"type": "text"}}},
            "generation_config.response_schema.type",
        ),
        (
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {"name": "f", "parameters": {**OBJECT, "properties": {"a": {"oneOf": []}}}}
                        ]
                    }
                ]
            },
            'Unknown name "oneOf"',
        ),
    ],
)
def test_a_prompt_that_google_would_refuse(play: Play, body: dict[str, Any], words: str) -> None:
    answer = gemini(play(), **body)
    assert (answer.status_code, answer.json()["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert words in answer.json()["error"]["message"]


def test_a_json_schema_goes_into_googles_field_for_it(play: Play) -> None:
    config = {"responseMimeType": "application/json", "responseJsonSchema": CLOSED}
    assert gemini(play(), generationConfig=config).status_code == 200
    own = {
        "responseMimeType": "application/json",
        "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
    }
    assert (
        gemini(
            play(), generationConfig=own, safetySettings={"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}
        ).status_code
        == 200
    )
    assert gemini(play(), "gemini-1.5-pro", tools=[{"googleSearchRetrieval": {}}]).status_code == 200
