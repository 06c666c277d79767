"""Any chat that OpenAI takes, translated: what comes out is what the sandbox takes, or the error names a field that is there.

The sandbox's own readers judge here, without a server.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import Untranslatable
from models.request import SIMPLE, Request
from tests.worker.providers.test_translation import body_of, make
from worker.providers.claude import Claude
from worker.providers.contract import KEY
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI
from worker.providers.rubbish import places_in, replaced
from worker.sandbox import claude_chat, gemini_chat, openai_chat
from worker.sandbox.dialect import Refusal

MODELS = {"openai": "gpt-4o", "claude": "claude-sonnet-5-5", "gemini": "gemini-3.5-flash"}
CLASSES: dict[str, Any] = {"openai": OpenAI, "claude": Claude, "gemini": Gemini}

words = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=12)
odd_words = st.text(max_size=12) | st.sampled_from(["", " ", "Well, "])
names = st.sampled_from(["get_w", "now", "a-b", "1st"])
leaf = st.sampled_from(
    [{"type": "string"}, {"type": "integer", "minimum": 1}, {"type": "boolean"}, {"enum": ["a", "b"], "type": "string"}]
)
schemas = st.recursive(
    st.dictionaries(st.sampled_from("xyz"), leaf, max_size=3).map(
        lambda fields: {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        }
    ),
    lambda inner: st.builds(
        lambda one, many: {
            "type": "object",
            "properties": {"one": one, "many": {"type": "array", "items": many}},
            "required": ["one", "many"],
            "additionalProperties": False,
        },
        inner,
        inner,
    ),
    max_leaves=3,
)
functions = st.fixed_dictionaries(
    {"name": names},
    optional={"description": words, "parameters": schemas, "strict": st.booleans()},
)
tool_lists = st.lists(functions, max_size=3, unique_by=lambda function: str(function["name"]))
text_parts = st.builds(lambda text: {"type": "text", "text": text}, words)
PNG = "data:image/png;base64,AAAA"
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
SOUND = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
ODD = [
    {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}},
    {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    {"type": "image_url", "image_url": {"url": "https://youtu.be/abc"}},
    {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
    {"type": "file", "file": {"file_id": "file-1"}},
    SOUND,
]
images = st.sampled_from([{"type": "image_url", "image_url": {"url": PNG}}, PDF])
asked = st.builds(
    lambda content: {"role": "user", "content": content},
    words | st.lists(text_parts | images, min_size=1, max_size=3),
)
answered = st.builds(
    lambda content: {"role": "assistant", "content": content}, words | st.lists(text_parts, min_size=1)
)
systems = st.builds(
    lambda role, content: {"role": role, "content": content}, st.sampled_from(["system", "developer"]), words
)
odd_turns = st.one_of(
    systems,
    st.builds(lambda text: {"role": "user", "content": text}, odd_words),
    st.builds(lambda text: {"role": "assistant", "content": text}, odd_words),
    st.builds(lambda part: {"role": "user", "content": [part]}, st.sampled_from(ODD)),
)


@st.composite
def calling(draw: st.DrawFn, odd: bool) -> list[dict[str, Any]]:
    """A message that calls tools, and a result of each."""
    ids = draw(st.lists(st.sampled_from(["call_1", "call_2", "a:b", "x" * 40]), min_size=1, max_size=3, unique=True))
    good = st.sampled_from(["{}", "", '{"x":1}', '{"x":{"y":[1,2.5,null]}}', '{"x":12345678901234567890123}'])
    arguments = st.sampled_from(["[]", "{", "null"]) if odd else good
    calls = [
        {"id": one, "type": "function", "function": {"name": draw(names), "arguments": draw(arguments)}} for one in ids
    ]
    content = draw(st.sampled_from([None, "", "Let me see."]))
    results = [
        {"role": "tool", "tool_call_id": one, "content": draw(words | st.lists(text_parts, min_size=1, max_size=2))}
        for one in draw(st.permutations(ids))
    ]
    return [{"role": "assistant", "content": content, "tool_calls": calls}, *results]


SETTINGS: dict[str, Any] = {
    "max_tokens": st.integers(1, 9000),
    "temperature": st.floats(0, 1) | st.sampled_from([0, 1]),
    "top_p": st.floats(0, 1),
    "stop": words | st.lists(words, max_size=4),
    "service_tier": st.sampled_from(["auto", "default"]),
    "stream": st.booleans(),
    "n": st.just(1),
    "store": st.just(False),
}
EFFORT: dict[str, Any] = {"reasoning_effort": st.sampled_from(["low", "medium", "high", "xhigh"])}
ODD_SETTINGS: dict[str, Any] = {
    "temperature": st.floats(0, 2),
    "seed": st.integers(-(2**40), 2**40),
    "n": st.integers(1, 12),
    "stop": odd_words.filter(bool) | st.lists(odd_words.filter(bool), max_size=4),
    "presence_penalty": st.floats(-2, 2),
    "reasoning_effort": st.sampled_from(["none", "minimal", "low", "max"]),
    "service_tier": st.sampled_from(["flex", "priority", "scale"]),
    "logprobs": st.just(True),
    "user": st.just("u"),
    "verbosity": st.just("low"),
    "store": st.booleans(),
}


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    """A chat/completions body that OpenAI takes; every fourth or so has something that not everybody takes."""
    odd = draw(st.integers(0, 3)) == 0
    kinds = [asked, asked, answered, calling(odd), *([odd_turns] if odd else [])]
    messages = [*draw(st.lists(systems, max_size=2)), draw(asked)]
    for turn in draw(st.lists(st.one_of(kinds), max_size=4)):
        messages.extend(turn if isinstance(turn, list) else [turn])
    tools = draw(tool_lists)
    body: dict[str, Any] = {"messages": messages}
    if tools:
        body["tools"] = [{"type": "function", "function": tool} for tool in tools]
        named = {"type": "function", "function": {"name": draw(st.sampled_from(tools))["name"]}}
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [named]}}
        choice = draw(st.sampled_from([None, "auto", "none", "required", named, *([allowed] if odd else [])]))
        body |= {} if choice is None else {"tool_choice": choice}
        body |= draw(st.sampled_from([{}, {}, {"parallel_tool_calls": True}, {"parallel_tool_calls": False}]))
    form = draw(st.sampled_from(["none", "none", "text", "schema"]))
    if form == "text":
        body["response_format"] = {"type": "text"}
    elif form == "schema":
        inner = {"name": "answer", "strict": True, "schema": draw(schemas)}
        body["response_format"] = {"type": "json_schema", "json_schema": inner}
    more = draw(st.sampled_from([SETTINGS, {}, EFFORT]))
    return body | draw(st.fixed_dictionaries({}, optional=ODD_SETTINGS if odd else more))


def take(dialect: str, model: str, body: bytes) -> None:
    """Raises Refusal if the played provider would."""
    if dialect == "openai":
        openai_chat.read_chat(body, True)
    elif dialect == "claude":
        claude_chat.read_chat(body, "2023-06-01", False)
    else:
        gemini_chat.read_chat(model, body, False, True)


def is_there(field: str, body: Any) -> bool:
    """Whether a body has a field, named as `messages[0].content`."""
    for step in re.findall(r"[^.\[\]]+", field):
        if isinstance(body, list):
            if not (step.isdigit() and int(step) < len(body)):
                return False
            body = body[int(step)]
        elif isinstance(body, dict) and step in body:
            body = body[step]
        else:
            return False
    return True


def translate(body: dict[str, Any], dialect: str, target: str) -> dict[str, Any] | None:
    """The body in the target's dialect, which its sandbox takes; None if it names a field that can't be translated."""
    try:
        call = make(CLASSES[target]).build(Request(MODELS[target], body, KEY, dialect=dialect))
    except Untranslatable as error:
        refused: Untranslatable | None = error
    else:
        refused = None
    if refused is not None:
        assert refused.field in str(refused)
        assert is_there(refused.field, body), (refused.field, body)
        return None
    try:
        take(target, MODELS[target], call.body or b"")
    except Refusal as refusal:
        raise AssertionError((refusal.answer.body, body, call.body)) from None
    translated: dict[str, Any] = body_of(call)
    return translated


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(chats())
def test_a_chat_comes_out_as_what_each_provider_takes_or_its_error_names_a_field_of_it(body: dict[str, Any]) -> None:
    assert translate(body, SIMPLE, "openai") is not None
    for target, others in (("claude", ("openai", "gemini")), ("gemini", ("openai", "claude"))):
        for dialect in (SIMPLE, "openai"):
            translated = translate(body, dialect, target)
        if translated is not None:
            for other in others:  # and on from there
                translate(translated, target, other)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
OWN: dict[str, dict[str, Any]] = {
    "openai": {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "r"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "temperature": 0.5,
        "service_tier": "auto",
        "reasoning_effort": "low",
        "stop": ["x"],
    },
    "claude": {
        "max_tokens": 2000,
        "system": [{"type": "text", "text": "s"}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                    {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "r"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [
            {"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]},
            {"parts": {"fileData": {"mimeType": "image/png", "fileUri": "https://example.com/a.png"}}},
            {
                "role": "model",
                "parts": [{"functionCall": {"id": "c", "name": "f", "args": {}}, "thoughtSignature": "x"}],
            },
            {"role": "user", "parts": [{"functionResponse": {"id": "c", "name": "f", "response": {"output": "r"}}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {}}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {
            "maxOutputTokens": 5,
            "responseMimeType": "application/json",
            "responseSchema": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}},
            "thinkingConfig": {"thinkingBudget": 2048},
        },
    },
}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_change_of_a_body_makes_a_translation_crash(data: st.DataObject) -> None:
    dialect = data.draw(st.sampled_from(sorted(OWN)))
    body: Any = OWN[dialect]
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from([path for path in places_in(body) if path]))
        body = replaced(body, path, data.draw(json_values))
    for target, kind in CLASSES.items():
        if target != dialect:
            provider, request = make(kind), Request(MODELS[target], body, KEY, dialect=dialect)
            provider.charge(request, 10, 10)
            try:
                assert provider.build(request).body
            except Untranslatable as error:
                message = str(error)
            else:
                message = "fine"
            assert message.isprintable()
