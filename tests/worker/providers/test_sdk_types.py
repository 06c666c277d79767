"""What our providers send, held to the types of the vendors' own SDKs: every field known there, every value of its type.

What the sandbox answers is held to them in tests/worker/sandbox/test_sdks.py.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming as ClaudeBody
from anthropic.types.message_create_params import MessageCreateParamsStreaming as StreamedClaudeBody
from google.genai import types as gemini
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatBody
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as StreamedChatBody
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionBody
from openai.types.completion_create_params import CompletionCreateParamsStreaming as StreamedCompletionBody
from openai.types.embedding_create_params import EmbeddingCreateParams
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as ResponseBody
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming as StreamedResponseBody
from pydantic import TypeAdapter

from models.request import Request
from tests.worker.providers.test_translation import make
from tests.worker.providers.test_translation_bodies import CLAUDE, GEMINI
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

pytestmark = pytest.mark.full

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_w", "description": "d", "parameters": SCHEMA}}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_w", "arguments": '{"city":"P"}'}}
LINES: dict[str, dict[str, Any]] = {
    "a question": {"messages": [{"role": "user", "content": "hi"}]},
    "a talk with an image": {
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "Sure?"},
        ],
        "max_tokens": 200,
        "stop": ["END"],
    },
    "tools and their results": {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        "tools": [TOOL],
        "tool_choice": "auto",
    },
    "a schema": {
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    },
    "sampling": {"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "top_p": 0.9},
}  # fmt: skip
every = pytest.mark.parametrize("line", LINES)


def sent(kind: type[Provider], source: dict[str, Any], operation: str = "chat", **config: Any) -> Any:
    call = make(kind, **config).build(Request("m-1", source, KEY, operation=operation))
    return orjson.loads(call.body or b"")


def check(form: Any, body: dict[str, Any]) -> None:
    """Raises ValidationError for a value of a wrong type; no field may be unknown."""
    assert body.keys() <= form.__required_keys__ | form.__optional_keys__
    found = TypeAdapter(form).validate_python(body)
    for value in found.values():
        if not isinstance(value, str | int | float | bool | list | dict | None):
            list(value)  # what is typed as an Iterable is checked as it is walked


@every
def test_openai_bodies_have_the_types_of_its_sdk(line: str) -> None:
    check(ChatBody, sent(OpenAI, LINES[line]))


@every
def test_claude_bodies_have_the_types_of_its_sdk(line: str) -> None:
    # its types are those of the newest version, which knows no sampling
    check(ClaudeBody, sent(Claude, LINES[line], anthropic_version="2026-10-21", drop_sampling=True))


@every
def test_gemini_bodies_have_the_types_of_its_sdk(line: str) -> None:
    check_gemini(sent(Gemini, LINES[line]))


def check_gemini(body: dict[str, Any]) -> None:
    """Raises ValidationError for a value of a wrong type; no field may be unknown."""
    for content in [*body.pop("contents"), *([body.pop("systemInstruction")] if "systemInstruction" in body else [])]:
        gemini.Content.model_validate(content)
    gemini.GenerationConfig.model_validate(body.pop("generationConfig", {}))
    for tool in body.pop("tools", []):
        gemini.Tool.model_validate(tool)
    gemini.ToolConfig.model_validate(body.pop("toolConfig", {}))
    assert body == {}


@pytest.mark.parametrize("target", [OpenAI, Claude, Gemini])
@pytest.mark.parametrize(("dialect", "body"), [("claude", CLAUDE), ("gemini", GEMINI)])
def test_bodies_of_another_dialect_have_the_types_when_they_are_translated(
    target: type[Provider], dialect: str, body: dict[str, Any]
) -> None:
    if target.dialect == dialect:
        return
    no_counterpart = ("stream", "temperature", "metadata")
    body = {name: value for name, value in body.items() if name not in no_counterpart}
    if target is Claude:
        body["generationConfig"] = {name: value for name, value in body["generationConfig"].items() if name != "seed"}
    config = {"anthropic_version": "2026-10-21", "drop_sampling": True} if target is Claude else {}
    call = make(target, **config).build(Request("m-1", body, KEY, dialect))
    translated = orjson.loads(call.body or b"")
    if target is Gemini:
        check_gemini(translated)
    else:
        check(ChatBody if target is OpenAI else ClaudeBody, translated)


@pytest.mark.parametrize(
    ("operation", "form", "body"),
    [
        ("chat", ChatBody, {"messages": [{"role": "user", "content": "hi"}], "service_tier": "flex"}),
        ("chat", StreamedChatBody, {"messages": [{"role": "user", "content": "hi"}], "stream": True}),
        ("responses", ResponseBody, {"input": "hi", "reasoning": {"effort": "low"}, "store": False}),
        ("responses", StreamedResponseBody, {"input": [{"role": "user", "content": "hi"}], "stream": True}),
        ("completions", CompletionBody, {"prompt": "Once", "max_tokens": 9}),
        ("completions", StreamedCompletionBody, {"prompt": "Once", "stream": True}),
        ("embeddings", EmbeddingCreateParams, {"input": ["a", "b"], "encoding_format": "base64"}),
    ],
)
def test_bodies_of_batch_lines_leave_with_the_types_of_their_endpoint(
    operation: str, form: Any, body: dict[str, Any]
) -> None:
    own = {"model": "m-1", **body}
    call = make(OpenAI).build(Request("m-1", own, KEY, "openai", operation, orjson.dumps(own)))
    check(form, orjson.loads(call.body or b""))


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
def test_an_own_body_of_claude_with_a_document_and_thinking_has_the_types(version: str) -> None:
    own = {
        "model": "claude-sonnet-5-5",
        "max_tokens": 4096,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
                    {"type": "text", "text": "What?"},
                ],
            }
        ],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "stream": True,
    }
    call = make(Claude, anthropic_version=version).build(Request("m-1", own, KEY, "claude", body=orjson.dumps(own)))
    check(StreamedClaudeBody, orjson.loads(call.body or b""))


def test_embeddings_have_the_types_of_the_sdks() -> None:
    check(EmbeddingCreateParams, sent(OpenAI, {"input": ["a", "b"], "dimensions": 8}, "embeddings"))
    (request,) = sent(Gemini, {"input": "a", "dimensions": 8, "task_type": "CLUSTERING"}, "embeddings")["requests"]
    gemini.Content.model_validate(request.pop("content"))
    assert request.pop("model") == "models/m-1"
    gemini.EmbedContentConfig.model_validate(request)


def test_a_wrong_body_would_be_found() -> None:
    with pytest.raises(ValueError):
        check(ChatBody, {"model": "m", "messages": [{"role": "user"}]})
    with pytest.raises(AssertionError):
        check(ClaudeBody, {"model": "m", "max_tokens": 1, "messages": [], "seed": 1})
