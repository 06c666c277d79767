"""Tools, their calls and results, media, schemas and thinking: from OpenAI's shape to Claude and Gemini.

It sends nothing; `test_translation_sandbox` asks the sandbox whether it takes what comes out.
"""

from __future__ import annotations

from typing import Any

import pytest

from models.errors import Untranslatable
from tests.worker.providers.test_translation import HI, body_of, build
from worker.providers.base import Provider
from worker.providers.claude import Claude
from worker.providers.gemini import Gemini

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_w", "description": "d", "parameters": SCHEMA}}
BARE = {"type": "function", "function": {"name": "now"}}


def call(name: str = "get_w", arguments: str = '{"city":"P"}', identity: str = "call_1") -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def answered(*calls: dict[str, Any]) -> list[dict[str, Any]]:
    results = [{"role": "tool", "tool_call_id": one["id"], "content": f"result of {one['id']}"} for one in calls]
    return [*HI, {"role": "assistant", "content": None, "tool_calls": list(calls)}, *results]


def refused(kind: type[Provider], messages: Any = HI, model: str = "m", **fields: Any) -> str:
    with pytest.raises(Untranslatable) as error:
        build(kind, messages, model, **fields)
    assert error.value.field in str(error.value)
    return error.value.field


def test_claude_gets_tools_with_their_schemas() -> None:
    body = body_of(build(Claude, HI, tools=[TOOL, BARE]))
    assert body["tools"] == [
        {"name": "get_w", "description": "d", "input_schema": SCHEMA},
        {"name": "now", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}},
    ]
    assert "tool_choice" not in body


def test_gemini_gets_tools_as_declarations() -> None:
    body = body_of(build(Gemini, HI, tools=[TOOL, BARE]))
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "get_w", "description": "d", "parametersJsonSchema": SCHEMA},
                {"name": "now"},
            ]
        }
    ]
    assert "toolConfig" not in body


def test_claude_gets_calls_and_all_their_results_in_one_turn_before_the_next_words() -> None:
    calls = call(), call("now", "", "call_2")
    messages = [*answered(*calls), {"role": "user", "content": "And?"}]
    assert body_of(build(Claude, messages, tools=[TOOL, BARE]))["messages"] == [
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "call_1", "name": "get_w", "input": {"city": "P"}},
                {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": "result of call_1"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": "result of call_2"},
                {"type": "text", "text": "And?"},
            ],
        },
    ]


def test_gemini_gets_calls_and_results_by_name_and_id_and_the_next_words_apart() -> None:
    messages = [*answered(call()), {"role": "user", "content": "And?"}]
    assert body_of(build(Gemini, messages, "gemini-2.5-flash", tools=[TOOL]))["contents"] == [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [{"functionCall": {"id": "call_1", "name": "get_w", "args": {"city": "P"}}}]},
        {
            "role": "user",
            "parts": [
                {
                    "functionResponse": {
                        "id": "call_1",
                        "name": "get_w",
                        "response": {"output": "result of call_1"},
                    }
                }
            ],
        },
        {"role": "user", "parts": [{"text": "And?"}]},
    ]


def test_gemini_3_is_told_that_calls_of_another_model_have_no_signature() -> None:
    calls = call(), call("now", "{}", "call_2")
    parts = body_of(build(Gemini, answered(*calls), "gemini-3.5-flash", tools=[TOOL, BARE]))["contents"][1]["parts"]
    assert parts[0]["thoughtSignature"] == "skip_thought_signature_validator"
    assert "thoughtSignature" not in parts[1]


def test_words_before_a_call_stay_before_it() -> None:
    messages = answered(call())
    messages[1]["content"] = "Let me see."
    turn = body_of(build(Claude, messages, tools=[TOOL]))["messages"][1]["content"]
    assert [block["type"] for block in turn] == ["text", "tool_use"]
    parts = body_of(build(Gemini, messages, tools=[TOOL]))["contents"][1]["parts"]
    assert [next(iter(part)) for part in parts] == ["text", "functionCall"]


def test_every_digit_of_an_argument_is_kept() -> None:
    content = body_of(build(Claude, answered(call(arguments='{"n": 12345678901234567}')), tools=[TOOL]))
    assert content["messages"][1]["content"][0]["input"] == {"n": 12345678901234567}
    big = build(Claude, answered(call(arguments='{"n": 123456789012345678901234567890}')), tools=[TOOL]).body
    assert b"123456789012345678901234567890" in (big or b"")


def test_ids_that_come_twice_or_do_not_fit_are_renamed_together_with_their_results() -> None:
    odd = call(identity="functions.get_w:0")
    messages = [*answered(odd), *answered(odd)]
    turns = body_of(build(Claude, messages, tools=[TOOL]))["messages"]
    uses = [block["id"] for turn in turns for block in turn["content"] if isinstance(block, dict) and "id" in block]
    results = [block["tool_use_id"] for turn in turns for block in turn["content"] if "tool_use_id" in block]
    assert uses == results
    assert len(set(uses)) == 2
    assert all(use.replace("_", "").isalnum() for use in uses)


@pytest.mark.parametrize("kind", [Claude, Gemini])
@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (answered(call())[:2], "messages[1].tool_calls[0]"),
        ([*HI, *answered(call())[2:]], "messages[1]"),
        ([*answered(call()), *answered(call())[2:]], "messages[1].tool_calls[0]"),
        ([*answered(call())[:2], *HI, *answered(call())[2:]], "messages[1].tool_calls[0]"),
        (answered(call(), call()), "messages[1].tool_calls[0]"),
        (answered(call())[1:], "messages[0].tool_calls[0]"),
        (answered(call(arguments="[1]")), "messages[1].tool_calls[0].function.arguments"),
        (answered(call(arguments="{")), "messages[1].tool_calls[0].function.arguments"),
        (answered(call(arguments="[" * 100_000)), "messages[1].tool_calls[0].function.arguments"),
        (answered({**call(), "type": "custom"}), "messages[1].tool_calls[0].type"),
        (answered(call("a b")), "messages[1].tool_calls[0]"),
    ],
)
def test_calls_and_results_that_do_not_belong_together_are_refused(
    kind: type[Provider], messages: Any, field: str
) -> None:
    assert refused(kind, messages, tools=[TOOL]) == field


CHOICES: list[tuple[Any, Any, Any]] = [
    ("auto", {"type": "auto"}, {"mode": "AUTO"}),
    ("none", {"type": "none"}, {"mode": "NONE"}),
    ("required", {"type": "any"}, {"mode": "ANY"}),
    (
        {"type": "function", "function": {"name": "now"}},
        {"type": "tool", "name": "now"},
        {"mode": "ANY", "allowedFunctionNames": ["now"]},
    ),
    (
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]},
        },
        {"type": "tool", "name": "now"},
        {"mode": "ANY", "allowedFunctionNames": ["now"]},
    ),
]


@pytest.mark.parametrize(("choice", "claude", "gemini"), CHOICES)
def test_the_choice_of_tools_is_said_in_each_dialect(choice: Any, claude: Any, gemini: Any) -> None:
    tools = [TOOL, BARE]
    assert body_of(build(Claude, HI, tools=tools, tool_choice=choice))["tool_choice"] == claude
    config = body_of(build(Gemini, HI, tools=tools, tool_choice=choice))["toolConfig"]
    assert config == {"functionCallingConfig": gemini}


def test_one_call_at_a_time_is_said_to_claude_and_refused_for_gemini() -> None:
    asked: Any = {"tools": [TOOL], "parallel_tool_calls": False}
    assert body_of(build(Claude, HI, **asked))["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body_of(build(Claude, HI, **asked, tool_choice="none"))["tool_choice"] == {"type": "none"}
    assert refused(Gemini, **asked) == "parallel_tool_calls"
    assert "toolConfig" not in body_of(build(Gemini, HI, tools=[TOOL], parallel_tool_calls=True))


def test_strict_tools_are_strict_for_claude_and_validated_by_gemini() -> None:
    strict = {"type": "function", "function": {"name": "get_w", "parameters": SCHEMA, "strict": True}}
    assert body_of(build(Claude, HI, tools=[strict]))["tools"][0]["strict"] is True
    assert body_of(build(Gemini, HI, tools=[strict]))["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}


@pytest.mark.parametrize("kind", [Claude, Gemini])
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"tools": [TOOL, TOOL]}, "tools[0].function.name"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a", "cache": 1}}]}, "tools[0].function.cache"),
        ({"tools": "many"}, "tools"),
    ],
)
def test_tools_that_contradict_themselves_are_refused(kind: type[Provider], fields: dict[str, Any], field: str) -> None:
    assert refused(kind, **fields) == field


PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}


def one(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part]}]


def image(url: str) -> list[dict[str, Any]]:
    return one({"type": "image_url", "image_url": {"url": url}})


def test_documents_go_to_both_and_sound_to_gemini_only() -> None:
    assert body_of(build(Claude, one(PDF)))["messages"][0]["content"] == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            "title": "a.pdf",
        }
    ]
    assert body_of(build(Gemini, one(PDF)))["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}}
    ]
    assert body_of(build(Gemini, one(SOUND)))["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "audio/wav", "data": "UklGRg=="}}
    ]
    assert refused(Claude, one(SOUND)) == "messages[0].content[0]"
    assert (
        refused(Claude, one({"type": "file", "file": {"file_id": "file-1"}})) == "messages[0].content[0].file.file_id"
    )


@pytest.mark.parametrize(
    ("url", "file"),
    [
        (
            "https://generativelanguage.googleapis.com/v1beta/files/abc",
            {"fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"},
        ),
        ("gs://bucket/cat.png", {"mimeType": "image/png", "fileUri": "gs://bucket/cat.png"}),
        ("https://www.youtube.com/watch?v=1", {"fileUri": "https://www.youtube.com/watch?v=1"}),
    ],
)
def test_gemini_reads_its_own_files_by_their_address(url: str, file: dict[str, str]) -> None:
    assert body_of(build(Gemini, image(url)))["contents"][0]["parts"] == [{"fileData": file}]


@pytest.mark.parametrize("url", ["https://example.com/cat.png", "https://example.com/?https://youtu.be/x"])
def test_gemini_refuses_the_address_of_an_image_elsewhere(url: str) -> None:
    assert refused(Gemini, image(url)) == "messages[0].content[0].image_url"


@pytest.mark.parametrize("kind", [Claude, Gemini])
@pytest.mark.parametrize("url", ["data:image/png;base64,", "data:image/png;base64,A", "data:image/png,AAAA", "data:,x"])
def test_an_image_without_data_is_refused(kind: type[Provider], url: str) -> None:
    assert refused(kind, image(url)) == "messages[0].content[0].image_url"


def test_claude_takes_four_kinds_of_images() -> None:
    assert refused(Claude, image("data:image/tiff;base64,AAAA")) == "messages[0].content[0].image_url"


def test_effort_becomes_claudes_and_turns_its_thinking_on_or_off() -> None:
    body = body_of(build(Claude, HI, reasoning_effort="low"))
    assert (body["thinking"], body["output_config"]) == ({"type": "adaptive"}, {"effort": "low"})
    assert body_of(build(Claude, HI, reasoning_effort="none"))["thinking"] == {"type": "disabled"}
    assert refused(Claude, reasoning_effort="minimal") == "reasoning_effort"
    assert refused(Claude, reasoning_effort="high", temperature=0.5) == "reasoning_effort"
    assert refused(Claude, reasoning_effort="high", tools=[TOOL], tool_choice="required") == "reasoning_effort"


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-3.5-flash", "minimal", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", "xhigh", {"thinkingLevel": "XHIGH"}),
        ("gemini-2.5-pro", "medium", {"thinkingBudget": 8192}),
        ("models/gemini-2.5-flash", "none", {"thinkingBudget": 0}),
    ],
)
def test_effort_becomes_geminis_level_or_budget_by_model(model: str, effort: str, config: dict[str, Any]) -> None:
    body = body_of(build(Gemini, HI, model, reasoning_effort=effort))
    assert body["generationConfig"] == {"thinkingConfig": config}


def test_an_effort_that_gemini_has_not_is_refused() -> None:
    assert refused(Gemini, HI, "gemini-3.5-flash", reasoning_effort="none") == "reasoning_effort"
    assert refused(Gemini, HI, "gemini-2.5-pro", reasoning_effort="xhigh") == "reasoning_effort"


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        (Claude, {"temperature": 1.5}, "temperature"),
        (Claude, {"stop": [" "]}, "stop"),
        (Claude, {"n": 2}, "n"),
        (Claude, {"seed": 1}, "seed"),
        (Claude, {"service_tier": "flex"}, "service_tier"),
        (Gemini, {"n": 9}, "n"),
        (Gemini, {"stop": list("abcdef")}, "stop"),
        (Gemini, {"user": "me"}, "user"),
        (Gemini, {"logit_bias": {"1": 1}}, "logit_bias"),
        (Gemini, {"verbosity": "low"}, "verbosity"),
    ],
)
def test_a_value_beyond_what_a_dialect_takes_is_refused(kind: type[Provider], fields: Any, field: str) -> None:
    assert refused(kind, **fields) == field


def test_tiers_go_where_there_is_one_alike() -> None:
    assert body_of(build(Claude, HI, service_tier="default"))["service_tier"] == "standard_only"
    assert body_of(build(Gemini, HI, service_tier="flex"))["serviceTier"] == "flex"
    assert "serviceTier" not in body_of(build(Gemini, HI, service_tier="auto"))


def test_claude_can_not_be_told_nothing() -> None:
    assert refused(Claude, [{"role": "user", "content": " "}]) == "messages[0].content"
    assert refused(Claude, [*HI, {"role": "assistant", "content": "Well, "}]) == "messages[1].content"
