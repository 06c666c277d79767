"""The lines of the guide's features: one for each thing that a provider is asked for, in that provider's own form, and their sandbox and configuration.

It runs and judges nothing.
"""

from __future__ import annotations

from typing import Any

import orjson

from worker.sandbox import (
    claude_chat,
    gemini_chat,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_responses,
)
from worker.sandbox.replies import prompt_sha

Line = dict[str, Any]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "warm": {"type": "boolean"}},
    "required": ["city", "warm"],
    "additionalProperties": False,
}
FIELDS = set(SCHEMA["required"])
PIXEL = "iVBORw0KGgo="
LONG = "A rule of the house. " * 400
"""Some 2,000 tokens: enough for Claude's cache."""
WHOLE_BOOK = "word " * 160_000
"""200,000 tokens."""

_FUNCTION = {"name": "get_w", "description": "The weather of a city.", "parameters": SCHEMA, "strict": True}
_CALLED = {"id": "call_1", "type": "function", "function": {"name": "get_w", "arguments": '{"city": "Bonn"}'}}


def user(text: str, *parts: Any) -> Line:
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}] if parts else text}


def _chat(**body: Any) -> Line:
    return {"method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o", **body}}


def _responses(**body: Any) -> Line:
    return {"method": "POST", "url": "/v1/responses", "body": {"model": "gpt-5.4-mini", **body}}


def _completions(**body: Any) -> Line:
    return {"method": "POST", "url": "/v1/completions", "body": {"model": "gpt-3.5-turbo-instruct", **body}}


_TOOLS = {"tools": [{"type": "function", "function": _FUNCTION}], "tool_choice": "required"}
_JSON = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}

OPENAI: dict[str, Line] = {
    "chat": _chat(messages=[{"role": "developer", "content": "Be terse."}, user("A chat")]),
    "stream": _chat(messages=[user("A stream")], stream=True),
    "stream-cut": _chat(messages=[user("This one is cut")], stream=True),
    "stream-stalled": {**_chat(messages=[user("This one stalls")], stream=True), "provider": "openai-impatient"},
    "tools": _chat(messages=[user("A call of a function")], **_TOOLS),
    "tools-streamed": _chat(messages=[user("A streamed call of a function")], stream=True, **_TOOLS),
    "tool-results": _chat(
        messages=[
            user("What is the weather?"),
            {"role": "assistant", "content": None, "tool_calls": [_CALLED]},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
        tools=_TOOLS["tools"],
    ),
    "vision-url": _chat(
        messages=[user("What is this?", {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})]
    ),
    "vision-inline": _chat(
        messages=[
            user("And this?", {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}),
        ]
    ),
    "schema": _chat(messages=[user("The weather as JSON")], response_format=_JSON),
    "fine-tuned": _chat(model="ft:gpt-4o-mini:acme::abc123", messages=[user("A model of our own")]),
    "reasoning": _chat(
        model="gpt-5.4-mini",
        messages=[user("Think about it")],
        reasoning_effort="high",
        verbosity="low",
        max_completion_tokens=400,
    ),
    "flex": _chat(messages=[user("It may take its time")], service_tier="flex"),
    "responses": _responses(
        input=[{"role": "user", "content": [{"type": "input_text", "text": "A response"}]}],
        instructions="Be terse.",
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}},
        service_tier="flex",
        store=False,
    ),
    "responses-streamed": _responses(input="A streamed response", stream=True),
    "responses-tools": _responses(
        input="A function, please", tools=[{"type": "function", **_FUNCTION}], tool_choice="required"
    ),
    "responses-hosted": _responses(
        input="Search and compute",
        tools=[{"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}],
    ),
    "completions": _completions(prompt="Once upon a time", n=2, max_tokens=30),
    "completions-streamed": _completions(prompt="Twice upon a time", max_tokens=30, stream=True),
    "embeddings": {
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "text-embedding-3-small", "input": ["a text", "another"], "dimensions": 8},
    },
}
"""OpenAI Batch lines."""


def _ask(*parts: Line, **more: Any) -> Line:
    return {"model": "models/gemini-3.5-flash", "contents": [{"role": "user", "parts": list(parts)}], **more}


def _file(kind: str, uri: str) -> Line:
    return {"fileData": {"mimeType": kind, "fileUri": uri}}


_DECLARED = {"name": "get_w", "description": "d", "parametersJsonSchema": SCHEMA}

GEMINI: dict[str, Line] = {
    "text": _ask({"text": "Some text"}, systemInstruction={"parts": [{"text": "Be terse."}]}),
    "image": _ask({"inlineData": {"mimeType": "image/png", "data": PIXEL}}, {"text": "What is this?"}),
    "audio": _ask({"inlineData": {"mimeType": "audio/mp3", "data": "//uQRAAA"}}, {"text": "Who speaks?"}),
    "file": _ask(
        _file("application/pdf", "https://generativelanguage.googleapis.com/v1/files/abc"), {"text": "Sum it up"}
    ),
    "video": _ask(_file("video/mp4", "gs://bucket/film.mp4"), {"text": "What happens?"}),
    "tools": _ask(
        {"text": "A call of a function"},
        tools=[{"functionDeclarations": [_DECLARED]}],
        toolConfig={"functionCallingConfig": {"mode": "ANY"}},
    ),
    "schema": _ask(
        {"text": "The weather as JSON"},
        generationConfig={"responseMimeType": "application/json", "responseJsonSchema": SCHEMA},
    ),
    "search": _ask({"text": "Search for it"}, tools=[{"googleSearch": {}}]),
    "code": _ask({"text": "Compute it"}, tools=[{"codeExecution": {}}]),
    "thinking": _ask(
        {"text": "Think about it"},
        generationConfig={"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}},
    ),
    "blocked": _ask({"text": "A prompt to be blocked"}),
}
"""Requests of Gemini batch lines."""


def _say(*messages: Line, **more: Any) -> Line:
    return {"model": "claude-haiku-4-5", "max_tokens": 2000, "messages": list(messages), **more}


def _marked(text: str, ttl: str = "5m") -> list[Line]:
    return [{"type": "text", "text": text, "cache_control": {"type": "ephemeral", "ttl": ttl}}]


_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
_BUDGET = {"type": "enabled", "budget_tokens": 1024}
_TOOL = {"name": "get_w", "description": "d", "input_schema": SCHEMA, "strict": True}

CLAUDE: dict[str, Line] = {
    "system": _say(user("A message"), system="Be terse."),
    "image": _say(user("What is this?", _IMAGE)),
    "image-url": _say(
        user("And this?", {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}})
    ),
    "document": _say(
        user(
            "Sum it up",
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}},
        )
    ),
    "tools": _say(user("A call of a tool"), tools=[_TOOL], tool_choice={"type": "any"}),
    "tools-streamed": _say(user("A streamed call of a tool"), tools=[_TOOL], tool_choice={"type": "any"}, stream=True),
    "tool-results": _say(
        user("What is the weather?"),
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_w", "input": {"city": "Bonn"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]},
        tools=[_TOOL],
    ),
    "schema": _say(user("The weather as JSON"), output_config={"format": {"type": "json_schema", "schema": SCHEMA}}),
    "extended": _say(user("Think about it"), thinking=_BUDGET),
    "extended-streamed": _say(user("Think about it, streaming"), thinking=_BUDGET, stream=True),
    "adaptive": {
        **_say(user("Think as long as it takes"), thinking={"type": "adaptive", "display": "summarized"}),
        "model": "claude-sonnet-5-5",
    },
    "search": _say(user("Search for it"), tools=[{"type": "web_search_20250305", "name": "web_search"}]),
    "book": _say(user(f"{WHOLE_BOOK} What is it about?")),
    "cache-a": _say(user("The first question"), system=_marked(LONG)),
    "cache-b": _say(user("The second question"), system=_marked(LONG)),
    "cache-hour": _say(user("For an hour"), system=_marked(f"Another one. {LONG}", "1h")),
    "stream": _say(user("A stream"), stream=True),
    "refused": _say(user("A prompt to be refused")),
}
"""Params of Anthropic lines."""

SIMPLE: dict[str, Line] = {
    "ft": {"provider": "openai", "model": "ft:gpt-4o-mini:acme::abc123", "prompt": "Tuned, simply"},
    "reasoning": {
        "provider": "openai",
        "model": "gpt-5.4-mini",
        "prompt": "Think, simply",
        "reasoning_effort": "low",
        "max_tokens": 400,
    },
    "gemini-stream": {"model": "gemini-3.5-flash", "prompt": "Stream, simply", "stream": True},
    "gemini-embed": {"model": "gemini-embedding-001", "embed": ["one", "two"], "dimensions": 8},
    "openai-embed": {"provider": "openai", "model": "text-embedding-3-small", "embed": "three", "dimensions": 8},
    "sampled-dropped": {"provider": "claude-dropping", "model": "claude-haiku-4-5", "prompt": "A", "temperature": 0.3},
    "sampled-refused": {"provider": "claude-newest", "model": "claude-haiku-4-5", "prompt": "B", "temperature": 0.3},
    "sampled-before": {"provider": "claude", "model": "claude-haiku-4-5", "prompt": "C", "temperature": 0.3},
    "newest": {"provider": "claude-newest", "model": "claude-haiku-4-5", "prompt": "D"},
    "astray": {"provider": "openai-astray", "model": "gpt-4o", "prompt": "Under another project"},
    **{f"rotated-{n}": {"provider": "openai-two", "model": "gpt-4o", "prompt": f"In turn {n}"} for n in range(80)},
}


FAILED = frozenset(("gemini/blocked", "claude/refused", "simple/sampled-refused"))


def all_lines() -> list[Line]:
    """The whole file, forms mixed."""
    lines = [{"custom_id": f"openai/{name}", "provider": "openai", **line} for name, line in OPENAI.items()]
    lines += [{"key": f"gemini/{name}", "request": request} for name, request in GEMINI.items()]
    lines += [
        {"custom_id": f"claude/{name}", "provider": "claude", "params": params} for name, params in CLAUDE.items()
    ]
    return lines + [{"id": f"simple/{name}", **line} for name, line in SIMPLE.items()]


def shas() -> dict[str, tuple[str, str]]:
    """What the sandbox calls the prompt of each line: its dialect, and the digest of its texts, images, files and results of tools."""
    readers = {
        "/v1/chat/completions": openai_chat.read_chat,
        "/v1/responses": openai_responses.read,
        "/v1/completions": openai_completions.read,
        "/v1/embeddings": openai_embeddings.read,
    }
    found: dict[str, tuple[str, str]] = {}
    for name, line in OPENAI.items():
        found[f"openai/{name}"] = "openai", readers[line["url"]](orjson.dumps(line["body"]), True).sha
    for name, request in GEMINI.items():
        body = {field: value for field, value in request.items() if field != "model"}
        found[f"gemini/{name}"] = (
            "gemini",
            gemini_chat.read_chat("gemini-3.5-flash", orjson.dumps(body), False, True).sha,
        )
    for name, params in CLAUDE.items():
        found[f"claude/{name}"] = "claude", claude_chat.read_chat(orjson.dumps(params), "2023-06-01", True).sha
    for name, line in SIMPLE.items():
        texts = line["embed"] if "embed" in line else [line["prompt"]]
        kind = str(line.get("provider", line["model"])).partition("-")[0]
        dialect = kind if kind in ("openai", "gemini", "claude") else "openai"
        found[f"simple/{name}"] = dialect, prompt_sha("\n".join([texts] if isinstance(texts, str) else texts))
    assert len(set(found.values())) == len(found), "two lines can't be told apart"
    return found


PRICING: dict[str, Any] = {
    "input_token_cost": "0.002",
    "output_token_cost": "0.01",
    "cached_token_cost": "0.0005",
    "cache_write_token_cost": "0.0025",
    "cache_write_1h_token_cost": "0.004",
    "tier_factors": {"flex": "0.5"},
    "fees": {"web_search_requests": "10", "code_interpreter_sessions": "30"},
    "currency": "USD",
}
SECRETS = ("sk-guide-a", "sk-guide-b", "sk-guide-c")
LIMITED = ("sk-guide-d", "sk-guide-e")
"""Keys that the sandbox holds to ten calls a second each."""
RPM = 600


def sandbox_settings() -> Line:
    """Keys with accounts, and what goes wrong with which prompt."""
    openai = [
        {"provider": "openai", "key": secret, "organization": "org-acme", "project": f"proj-{secret[-1]}"}
        for secret in SECRETS
    ]
    # a machine that stands still sends late and at once, up to twenty; half of all at once would be too many
    limited = [{"provider": "openai", "key": secret, "rpm": RPM, "burst_seconds": 3} for secret in LIMITED]
    others = [{"provider": name, "key": SECRETS[0]} for name in ("gemini", "claude")]
    return {
        "accounts": openai + others + limited,
        "usage_extras": True,
        "faults": [
            {"kind": "cut_stream", "contains": "This one is cut", "times": 1},
            {"kind": "stalled_stream", "contains": "This one stalls", "times": 1},
            {"kind": "content_filter", "contains": "to be blocked"},
            {"kind": "content_filter", "contains": "to be refused"},
        ],
    }


def config(sandbox_url: str) -> Line:
    """A provider for each dialect, and more where a setting is the feature."""

    def provider(name: str, kind: str, *keys: Line, **more: Any) -> Line:
        found = keys or ({"id": f"{name}-1", "secret": SECRETS[0]},)
        priced = [{"pricing": PRICING, **key} for key in found]
        return {"id": name, "type": kind, "base_url": f"{sandbox_url}/{kind}/v1", "keys": priced, **more}

    cheaper = {**PRICING, "input_token_cost": "0.001"}
    astray = {"id": "astray-1", "secret": SECRETS[1], "project": "proj-of-others", "pricing": cheaper}
    home = {"id": "astray-2", "secret": SECRETS[2], "project": "proj-c"}
    in_turn = [
        {"id": f"two-{secret[-1]}", "secret": secret, "limit_req_per_min": RPM, "limit_tokens_per_min": 10**6}
        for secret in LIMITED
    ]
    ours = {"organization": "org-acme", "project": "proj-a"}
    newest = {"anthropic_version": "2026-10-21"}
    return {
        "providers": [
            provider("openai", "openai", **ours),
            provider("openai-impatient", "openai", **ours, stream_silence_seconds=5),
            provider("gemini", "gemini"),
            provider("claude", "claude"),
            provider("openai-astray", "openai", astray, home, organization="org-acme"),
            provider("openai-two", "openai", {**in_turn[0], "pricing": cheaper}, in_turn[1]),
            provider("claude-newest", "claude", **newest),
            provider("claude-dropping", "claude", **newest, drop_sampling=True),
        ]
    }
