"""Bodies of Claude's and Gemini's own dialects, translated for the other two.

It sends nothing.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models.errors import Untranslatable
from models.request import Request
from tests.worker.providers.test_translation import body_of, make
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
CLAUDE: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "Be terse."}, {"type": "text", "text": "Be kind."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                {"type": "text", "text": "Where?"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_w", "input": {"city": "P"}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such city", "is_error": True},
                {"type": "text", "text": "And?"},
            ],
        },
    ],
    "tools": [{"name": "get_w", "description": "d", "input_schema": SCHEMA}],
    "tool_choice": {"type": "any"},
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u"},
    "temperature": 0.5,
    "stream": True,
}
GEMINI: dict[str, Any] = {
    "system_instruction": {"parts": [{"text": "Be terse."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Where?"}, {"inline_data": {"mime_type": "image/png", "data": "AAAA"}}]},
        {
            "role": "model",
            "parts": [{"functionCall": {"name": "get_w", "args": {"city": "P"}}, "thoughtSignature": "c2ln"}],
        },
        {"role": "user", "parts": [{"functionResponse": {"name": "get_w", "response": {"sky": "blue"}}}]},
    ],
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "get_w",
                    "parameters": {
                        "type": "OBJECT",
                        "properties": {"city": {"type": "STRING", "nullable": True, "maxLength": "9"}},
                        "required": ["city"],
                    },
                }
            ]
        }
    ],
    "generationConfig": {"maxOutputTokens": "300", "topP": 0.9, "stopSequences": ["END"], "seed": 3},
}


def translated(kind: type[Provider], dialect: str, body: dict[str, Any], model: str = "m") -> Any:
    call = make(kind).build(Request(model, body, KEY, dialect=dialect, body=orjson.dumps(body)))
    return body_of(call)


def refused(kind: type[Provider], dialect: str, body: dict[str, Any]) -> str:
    with pytest.raises(Untranslatable) as error:
        translated(kind, dialect, body)
    return error.value.field


def test_a_claude_body_becomes_openais() -> None:
    assert translated(OpenAI, "claude", CLAUDE) == {
        "model": "m",
        "messages": [
            {
                "role": "system",
                "content": [{"type": "text", "text": "Be terse."}, {"type": "text", "text": "Be kind."}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "text", "text": "Where?"},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "toolu_1", "type": "function", "function": {"name": "get_w", "arguments": '{"city":"P"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "toolu_1", "content": '{"error":"no such city"}'},
            {"role": "user", "content": "And?"},
        ],
        "tools": [{"type": "function", "function": {"name": "get_w", "description": "d", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "max_tokens": 2000,
        "temperature": 0.5,
        "stop": ["END"],
        "safety_identifier": "u",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_claude_body_becomes_geminis() -> None:
    body = {key: value for key, value in CLAUDE.items() if key != "metadata"}
    assert translated(Gemini, "claude", body) == {
        "systemInstruction": {"parts": [{"text": "Be terse."}, {"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, {"text": "Where?"}]},
            {
                "role": "model",
                "parts": [
                    {
                        "functionCall": {"id": "toolu_1", "name": "get_w", "args": {"city": "P"}},
                        "thoughtSignature": "skip_thought_signature_validator",
                    }
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "toolu_1", "name": "get_w", "response": {"error": "no such city"}}}
                ],
            },
            {"role": "user", "parts": [{"text": "And?"}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "get_w", "description": "d", "parametersJsonSchema": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "generationConfig": {"temperature": 0.5, "maxOutputTokens": 2000, "stopSequences": ["END"]},
    }


def test_a_gemini_body_in_either_spelling_becomes_openais() -> None:
    assert translated(OpenAI, "gemini", GEMINI) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be terse."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Where?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "get_w", "arguments": '{"city":"P"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"sky":"blue"}'},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "get_w",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": ["string", "null"], "maxLength": 9}},
                        "required": ["city"],
                    },
                },
            }
        ],
        "max_tokens": 300,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
    }


def test_a_gemini_body_becomes_claudes_and_books_its_bound() -> None:
    body = {**GEMINI, "generationConfig": {"maxOutputTokens": "300"}}
    out = translated(Claude, "gemini", body)
    assert out["max_tokens"] == 300
    assert [turn["role"] for turn in out["messages"]] == ["user", "assistant", "user"]
    assert out["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "call_1", "content": '{"sky":"blue"}'}
    ]
    request = Request("m", body, KEY, dialect="gemini")
    for kind in (OpenAI, Claude, Gemini):
        assert make(kind).max_output_tokens(request) == 300
    assert make(OpenAI).charge(request, 10, 10).tokens == 300


def test_openais_reasoning_models_get_the_bound_by_its_newer_name() -> None:
    body = translated(OpenAI, "claude", {"max_tokens": 9, "messages": HI}, "gpt-5.4-mini")
    assert body == {"model": "gpt-5.4-mini", "messages": HI, "max_completion_tokens": 9}


def test_thinking_goes_on_as_effort() -> None:
    base = {"max_tokens": 9000, "messages": HI}
    adaptive = {**base, "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}
    assert translated(OpenAI, "claude", adaptive)["reasoning_effort"] == "low"
    config = translated(Gemini, "claude", adaptive, "gemini-3.5-flash")["generationConfig"]
    assert config["thinkingConfig"] == {"thinkingLevel": "LOW"}
    assert translated(OpenAI, "claude", {**base, "thinking": {"type": "adaptive"}})["reasoning_effort"] == "high"
    assert translated(OpenAI, "claude", {**base, "thinking": {"type": "disabled"}})["reasoning_effort"] == "none"
    budget = {**base, "thinking": {"type": "enabled", "budget_tokens": 2048}}
    assert translated(Gemini, "claude", budget)["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 2048}
    assert refused(OpenAI, "claude", budget) == "thinking.budget_tokens"


def with_config(**config: Any) -> dict[str, Any]:
    return {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}


def test_geminis_thinking_goes_on_too() -> None:
    level = with_config(thinkingConfig={"thinkingLevel": "HIGH"})
    assert translated(OpenAI, "gemini", level)["reasoning_effort"] == "high"
    assert translated(Claude, "gemini", level)["output_config"] == {"effort": "high"}
    assert translated(Claude, "gemini", with_config(thinkingConfig={"thinkingBudget": 0}))["thinking"] == {
        "type": "disabled"
    }
    budget = with_config(thinkingConfig={"thinkingBudget": 2048})
    assert translated(Claude, "gemini", budget)["thinking"] == {"type": "enabled", "budget_tokens": 2048}


def test_a_form_goes_on_from_each_to_each() -> None:
    claude = {"max_tokens": 9, "messages": HI, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    inner = {"name": "answer", "schema": SCHEMA, "strict": True}
    assert translated(OpenAI, "claude", claude)["response_format"] == {"type": "json_schema", "json_schema": inner}
    config = translated(Gemini, "claude", claude)["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", SCHEMA)
    gemini = with_config(responseMimeType="application/json", responseSchema={"type": "STRING", "enum": ["a"]})
    form = translated(Claude, "gemini", gemini)["output_config"]["format"]
    assert form == {"type": "json_schema", "schema": {"type": "string", "enum": ["a"]}}
    assert translated(OpenAI, "gemini", with_config(responseMimeType="application/json"))["response_format"] == {
        "type": "json_object"
    }


def said(block: dict[str, Any]) -> dict[str, Any]:
    return {"max_tokens": 9, "messages": [{"role": "user", "content": [block]}]}


TEXT = {"type": "text", "text": "x"}


@pytest.mark.parametrize("kind", [OpenAI, Gemini])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (said({**TEXT, "cache_control": {"type": "ephemeral"}}), "messages[0].content[0].cache_control"),
        (said({"type": "search_result"}), "messages[0].content[0]"),
        (said({"type": "image", "source": {"type": "file", "file_id": "f"}}), "messages[0].content[0].source"),
        (
            {
                "max_tokens": 9,
                "messages": [*HI, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}],
            },
            "messages[1].content[0]",
        ),
        ({"max_tokens": 9, "messages": HI, "mcp_servers": [{}]}, "mcp_servers"),
        ({"max_tokens": 9, "messages": HI, "tools": [{"type": "web_search_20260209", "name": "w"}]}, "tools[0].type"),
        ({"max_tokens": 9, "messages": HI, "cache_control": {"type": "ephemeral"}}, "cache_control"),
        ({"max_tokens": 9, "messages": []}, "messages"),
    ],
)
def test_what_only_claude_has_is_refused_by_name(kind: type[Provider], body: dict[str, Any], field: str) -> None:
    assert refused(kind, "claude", body) == field


def test_openai_takes_no_top_k_and_no_address_of_a_document() -> None:
    assert refused(OpenAI, "claude", {"max_tokens": 9, "messages": HI, "top_k": 5}) == "top_k"
    document = {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}
    assert refused(OpenAI, "claude", said(document)) == "messages[0].content[0]"


def parts(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": list(parts)}]}


@pytest.mark.parametrize("kind", [OpenAI, Claude])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**parts({"text": "x"}), "tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({**parts({"text": "x"}), "tools": [{"code_execution": {}}]}, "tools[0].codeExecution"),
        ({**parts({"text": "x"}), "safetySettings": [{}]}, "safetySettings"),
        ({**parts({"text": "x"}), "cachedContent": "c"}, "cachedContent"),
        (parts({"executableCode": {"code": "1"}}), "contents[0].parts[0].executableCode"),
        (parts({"text": "x", "thought": True}), "contents[0].parts[0].thought"),
        (
            parts({"fileData": {"fileUri": "gs://b/a.png", "mimeType": "image/png"}}),
            "contents[0].parts[0].fileData.fileUri",
        ),
        (parts({"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}}), "contents[0].parts[0]"),
        (with_config(responseModalities=["AUDIO"]), "generationConfig.responseModalities"),
        (with_config(mediaResolution="LOW"), "generationConfig.mediaResolution"),
        (with_config(responseMimeType="text/x.enum"), "generationConfig.responseMimeType"),
        (with_config(thinkingConfig={"includeThoughts": True}), "generationConfig.thinkingConfig.includeThoughts"),
        ({"contents": []}, "contents"),
    ],
)
def test_what_only_gemini_has_is_refused_by_name(kind: type[Provider], body: dict[str, Any], field: str) -> None:
    assert refused(kind, "gemini", body) == field


@pytest.mark.parametrize("operation", ["embeddings", "responses", "completions"])
def test_only_chat_is_translated(operation: str) -> None:
    for kind, dialect in ((OpenAI, "claude"), (Claude, "openai")):
        with pytest.raises(Untranslatable) as error:
            make(kind).build(Request("m", CLAUDE, KEY, dialect=dialect, operation=operation))
        assert error.value.field == "operation"
