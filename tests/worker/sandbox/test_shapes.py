"""Answers in the form that is asked for (a forced call, JSON by a schema), and what each played provider refuses of tools and media.

What the providers of this program make of it is `tests/worker/providers`' business.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.sandbox.conftest import Play
from worker.sandbox.samples import sample

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
OPENAI_TOOL = {"type": "function", "function": {"name": "get_w", "parameters": CITY, "strict": True}}
CLAUDE_TOOL = {"name": "get_w", "input_schema": CITY}
GEMINI_TOOL = {"functionDeclarations": [{"name": "get_w", "parametersJsonSchema": CITY}]}
FORCED: dict[str, dict[str, Any]] = {
    "openai": {"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "get_w"}}},
    "claude": {"tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}},
    "gemini": {"tools": [GEMINI_TOOL], "toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
}
JSON: dict[str, dict[str, Any]] = {
    "openai": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": CITY}}
    },
    "claude": {"output_config": {"format": {"type": "json_schema", "schema": CITY}}},
    "gemini": {"generationConfig": {"responseMimeType": "application/json", "responseJsonSchema": CITY}},
}
providers = pytest.mark.parametrize("provider", ["openai", "claude", "gemini"])


def check_city(value: Any) -> None:
    assert value.keys() == {"city", "days"}
    assert isinstance(value["city"], str)
    assert value["days"] in range(1, 8)


def call_in(provider: str, body: dict[str, Any]) -> tuple[str, Any]:
    if provider == "openai":
        choice = body["choices"][0]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        function = choice["message"]["tool_calls"][0]["function"]
        return function["name"], json.loads(function["arguments"])
    if provider == "claude":
        assert body["stop_reason"] == "tool_use"
        return body["content"][0]["name"], body["content"][0]["input"]
    call = body["candidates"][0]["content"]["parts"][0]["functionCall"]
    return call["name"], call["args"]


@providers
def test_a_forced_call_is_made_with_fitting_arguments_and_always_the_same(play: Play, provider: str) -> None:
    played = play()
    name, arguments = call_in(provider, played.ask(provider, **FORCED[provider]).json())
    assert name == "get_w"
    check_city(arguments)
    assert call_in(provider, played.ask(provider, **FORCED[provider]).json()) == (name, arguments)


@providers
def test_an_answer_fits_the_schema_that_is_asked_for(play: Play, provider: str) -> None:
    body = play().ask(provider, **JSON[provider]).json()
    text = {
        "openai": lambda: body["choices"][0]["message"]["content"],
        "claude": lambda: body["content"][0]["text"],
        "gemini": lambda: body["candidates"][0]["content"]["parts"][0]["text"],
    }[provider]()
    check_city(json.loads(text))


simple_schemas = st.recursive(
    st.sampled_from(
        [
            {"type": "string", "minLength": 3, "maxLength": 9},
            {"type": "integer", "minimum": -3, "maximum": 3},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": ["a", 1, None]},
            {"const": 5},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ]
    ),
    lambda inner: (
        st.builds(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 3}, inner)
        | st.dictionaries(st.sampled_from("abc"), inner).map(
            lambda fields: {"type": "object", "properties": fields, "required": list(fields)}
        )
    ),
    max_leaves=8,
)


def fits(schema: Any, value: Any) -> bool:
    """Whether a value fits one of the schemas above."""
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(fits(one, value) for one in schema["anyOf"])
    match schema["type"]:
        case "string":
            return isinstance(value, str) and schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 99)
        case "integer":
            return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
        case "number":
            return type(value) in (int, float)
        case "boolean":
            return type(value) is bool
        case "array":
            return 1 <= len(value) <= 3 and all(fits(schema["items"], one) for one in value)
        case "object":
            return value.keys() == schema["properties"].keys() and all(
                fits(schema["properties"][key], one) for key, one in value.items()
            )
    return value is None


@settings(max_examples=200, deadline=None)
@given(simple_schemas, st.text(max_size=5))
def test_a_sample_fits_its_schema(schema: Any, digest: str) -> None:
    assert fits(schema, sample(schema, digest))


def test_a_schema_that_refers_to_itself_comes_to_an_end() -> None:
    tree = {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}}, "required": ["kids"]}
    assert "kids" in sample(tree, "x")


USE = {"id": "call_1", "type": "function", "function": {"name": "get_w", "arguments": "{}"}}
ASKED = {"role": "user", "content": "hi"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [USE]}
ANSWERED = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}


def said(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": []}, "tools"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}
                ]
            },
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [OPENAI_TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [OPENAI_TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"messages": [ASKED, CALLED]}, "messages[1].role"),
        ({"messages": [ASKED, CALLED, ASKED]}, "messages[2].role"),
        ({"messages": [ASKED, ANSWERED]}, "messages[1].role"),
        ({"messages": [ASKED, {"role": "assistant", "tool_calls": []}]}, "messages[1].content"),
        (
            {"messages": [ASKED, {**CALLED, "tool_calls": [{**USE, "function": {"name": "f", "arguments": {}}}]}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (said({"type": "image_url"}), "messages[0].content[0].image_url"),
        (said({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url.url"),
        (
            said({"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}),
            "messages[0].content[0].image_url.url",
        ),
        (said({"type": "file", "file": {"filename": "a.pdf"}}), "messages[0].content[0].file.file_data"),
        (said({"type": "refusal", "refusal": "no"}), "messages[0].content[0].type"),
        ({"response_format": {"type": "json"}}, "response_format.type"),
        ({"response_format": {"type": "json_object"}}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "strict": True, "schema": {**CITY, "required": ["city"]}},
                }
            },
            "response_format",
        ),
        ({"stop": list("abcde")}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ],
)
def test_openai_refuses_what_it_cant_make_sense_of(play: Play, change: dict[str, Any], param: str) -> None:
    answer = play().ask("openai", **change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


CLAUDE_USE = {"type": "tool_use", "id": "toolu_1", "name": "get_w", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}


def turns(*contents: Any) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "assistant" if at % 2 else "user", "content": content} for at, content in enumerate(contents)
        ]
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tools": [{"name": "f"}]}, "input_schema: Field required"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, "input_schema.type: Input should be 'object'"),
        ({"tools": [OPENAI_TOOL]}, "tools.0"),
        ({"tools": [CLAUDE_TOOL, CLAUDE_TOOL]}, "Tool names must be unique"),
        ({"tool_choice": {"type": "auto"}}, "tool_choice may only be specified while providing tools"),
        ({"tools": [CLAUDE_TOOL], "tool_choice": "auto"}, "tool_choice: Input should be a valid dictionary"),
        ({"tools": [CLAUDE_TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "'g' not found"),
        (turns("hi", [CLAUDE_USE]), "without `tool_result` blocks immediately after: toolu_1"),
        (turns("hi", [CLAUDE_USE], "well?"), "without `tool_result` blocks immediately after: toolu_1"),
        (turns([RESULT]), "unexpected `tool_use_id` found"),
        (turns("hi", [CLAUDE_USE], [{"type": "text", "text": "so"}, RESULT]), "must come first"),
        (turns("hi", [CLAUDE_USE], [RESULT], [CLAUDE_USE], [RESULT]), "ids must be unique"),
        (turns([CLAUDE_USE]), "`tool_use` blocks are not permitted in user content"),
        (turns([{"type": "image"}]), "image.source: Field required"),
        (
            turns([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}]),
            "invalid base64 data",
        ),
        (
            turns([{"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": "AAAA"}}]),
            "media_type: Input should be",
        ),
        (turns([{"type": "text", "text": " "}]), "must contain non-whitespace text"),
        (turns([{"type": "text", "text": "x", "foo": 1}]), "foo: Extra inputs are not permitted"),
        (turns("hi", "Well, "), "cannot end with trailing whitespace"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "additionalProperties"),
        ({"output_config": {"effort": "minimal"}}, "output_config.effort"),
        ({"thinking": {"type": "adaptive"}, "temperature": 0.5}, "`temperature` may only be set to 1"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "must be greater than `thinking.budget_tokens`"),
        (
            {"thinking": {"type": "adaptive"}, "tools": [CLAUDE_TOOL], "tool_choice": {"type": "any"}},
            "tool_choice forces tool use",
        ),
        ({"stop_sequences": [" "]}, "non-whitespace"),
    ],
)
def test_claude_refuses_what_it_cant_make_sense_of(play: Play, change: dict[str, Any], words: str) -> None:
    answer = play().ask("claude", **change)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


GEMINI_CALL = {"role": "model", "parts": [{"functionCall": {"name": "get_w", "args": {}}}]}
RESPONSE = {"role": "user", "parts": [{"functionResponse": {"name": "get_w", "response": {"output": "ok"}}}]}
HI = {"role": "user", "parts": [{"text": "hi"}]}


def part(value: dict[str, Any]) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [value]}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tools": [{"name": "f"}]}, "Unknown name \"name\" at 'tools[0]'"),
        ({"tools": [{"functionDeclarations": [{"name": "1f"}]}]}, "Invalid function name"),
        ({"tools": [GEMINI_TOOL, GEMINI_TOOL]}, "Duplicate function declaration"),
        (
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT"}}]}]},
            "should be non-empty for OBJECT type",
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "without function_declarations"),
        ({"tools": [GEMINI_TOOL], "toolConfig": {"functionCallingConfig": {"mode": "MUST"}}}, "mode"),
        (
            {"tools": [GEMINI_TOOL], "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["get_w"]}}},
            "only be set when function calling mode is ANY",
        ),
        ({"contents": [HI, GEMINI_CALL, HI]}, "number of function response parts"),
        ({"contents": [HI, RESPONSE]}, "number of function response parts"),
        ({"contents": [GEMINI_CALL, RESPONSE]}, "immediately after a user turn"),
        (part({"inlineData": {"mimeType": "image/png"}}), "(TYPE_BYTES)"),
        (part({"inlineData": {"data": "AAAA"}}), "mime_type cannot be empty"),
        (part({"fileData": {"fileUri": "https://example.com/cat.png"}}), "Unsupported file URI type"),
        (part({"text": "x", "inlineData": {"mimeType": "image/png", "data": "AAAA"}}), "oneof"),
        (part({"image": "x"}), 'Unknown name "image"'),
        (
            {"generationConfig": {"responseJsonSchema": {"type": "object"}}},
            "Response schema is only supported with JSON",
        ),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 5}}},
            "only one of thinking budget and thinking level",
        ),
        ({"generationConfig": {"stopSequences": list("abcdef")}}, "at most 5"),
        ({"generationConfig": {"logprobs": 2}}, "response_logprobs"),
    ],
)
def test_gemini_refuses_what_it_cant_make_sense_of(play: Play, change: dict[str, Any], words: str) -> None:
    answer = play().ask("gemini", **change)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]


def test_gemini_3_wants_a_signature_on_the_first_call_of_a_turn(play: Play) -> None:
    played = play()
    talk: dict[str, Any] = {"contents": [HI, GEMINI_CALL, RESPONSE], "tools": [GEMINI_TOOL]}
    assert played.ask("gemini", model="gemini-2.5-flash", **talk).status_code == 200
    refused = played.ask("gemini", model="gemini-3.5-flash", **talk)
    assert "missing a thought_signature" in refused.json()["error"]["message"]
