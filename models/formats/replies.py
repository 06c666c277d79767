"""A provider's reply in another vendor's shape: text, tool calls, why it ended, usage; and untouched where it is its own.

It does not read what only one vendor has (log probabilities, citations, safety ratings): the raw reply has that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from models.formats.outcome import Outcome, one_line

OPENAI, CLAUDE, GEMINI = "openai", "claude", "gemini"

STOP, LENGTH, TOOLS, FILTER = "stop", "length", "tool_calls", "content_filter"
"""Why an answer ended, in OpenAI's words, into which the others' are read."""

_ENDS = {
    "function_call": TOOLS,
    "end_turn": STOP,
    "stop_sequence": STOP,
    "max_tokens": LENGTH,
    "model_context_window_exceeded": LENGTH,
    "tool_use": TOOLS,
    "refusal": FILTER,
    "MAX_TOKENS": LENGTH,
    "SAFETY": FILTER,
    "RECITATION": FILTER,
    "BLOCKLIST": FILTER,
    "PROHIBITED_CONTENT": FILTER,
    "SPII": FILTER,
    "MODEL_ARMOR": FILTER,
}
_CLAUDE_ENDS = {STOP: "end_turn", LENGTH: "max_tokens", TOOLS: "tool_use", FILTER: "refusal"}
_GEMINI_ENDS = {STOP: "STOP", LENGTH: "MAX_TOKENS", TOOLS: "STOP", FILTER: "SAFETY"}


@dataclass(frozen=True, slots=True)
class _Call:
    """A tool's call; `arguments` decoded, None if they are no JSON object."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Choice:
    text: str | None
    calls: tuple[_Call, ...]
    end: str


@dataclass(frozen=True, slots=True)
class _Reply:
    id: str
    model: str
    choices: tuple[_Choice, ...]
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


class _Marks(msgspec.Struct):
    """By what a reply's shape is known."""

    type: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    candidates: msgspec.Raw = msgspec.Raw()
    usageMetadata: msgspec.Raw = msgspec.Raw()  # noqa: N815 - its name on the wire
    promptFeedback: msgspec.Raw = msgspec.Raw()  # noqa: N815
    embedding: msgspec.Raw = msgspec.Raw()
    embeddings: msgspec.Raw = msgspec.Raw()


_marks = msgspec.json.Decoder(_Marks)


def shape_of(raw: bytes) -> str | None:
    """The dialect in which a reply is; None for what can't be told."""
    try:
        marks = _marks.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if bytes(marks.type) == b'"message"':
        return CLAUDE
    if any(
        map(bytes, (marks.candidates, marks.usageMetadata, marks.promptFeedback, marks.embedding, marks.embeddings))
    ):
        return GEMINI
    return OPENAI if bytes(marks.object) or bytes(marks.choices) else None


def shaped(outcome: Outcome, dialect: str) -> bytes | None:
    """The reply of a job that succeeded, as one line of JSON in `dialect`: as received where it is in that already.

    None for a reply that is no JSON, from a line of this dialect. What isn't told by the reply comes from the outcome.
    """
    raw = outcome.response or b""
    shape = shape_of(raw)
    if shape == dialect or (shape is None and outcome.dialect == dialect):
        return one_line(raw)
    reply = _read(outcome, shape, msgspec.json.decode(raw) if shape else {})
    return msgspec.json.encode(_WRITERS[dialect](reply))


def _read(outcome: Outcome, shape: str | None, body: dict[str, Any]) -> _Reply:
    choices = tuple(_READERS[shape](body)) if shape else ()
    if not choices:
        choices = (_Choice(outcome.text, (), _end(outcome.finish_reason, ())),)
    usage = _table(body.get("usage")) or _table(body.get("usageMetadata"))
    made = _table(usage.get("completion_tokens_details")) or _table(usage.get("output_tokens_details"))
    given = _table(usage.get("prompt_tokens_details")) or _table(usage.get("input_tokens_details"))
    reasoning = made.get("reasoning_tokens") or made.get("thinking_tokens") or usage.get("thoughtsTokenCount")
    written = usage.get("cache_creation_input_tokens") or given.get("cache_write_tokens")
    return _Reply(
        id=str(body.get("id") or body.get("responseId") or outcome.request_id or ""),
        model=outcome.served_model or outcome.requested_model or "",
        choices=choices,
        input_tokens=outcome.input_tokens or 0,
        output_tokens=outcome.output_tokens or 0,
        cached_tokens=outcome.cached_tokens or 0,
        cache_write_tokens=written if type(written) is int else 0,
        reasoning_tokens=reasoning if type(reasoning) is int else 0,
    )


def _from_openai(body: dict[str, Any]) -> list[_Choice]:
    found = []
    for choice in _tables(body.get("choices")):
        message = choice.get("message")
        if type(message) is not dict:
            continue
        calls = tuple(
            _Call(str(call.get("id") or ""), str(function.get("name") or ""), _arguments(function.get("arguments")))
            for call in _tables(message.get("tool_calls"))
            if (function := _table(call.get("function")))
        )
        content = message.get("content")
        text = content if type(content) is str else _joined(_tables(content)) or message.get("refusal")
        found.append(_Choice(text, calls, _end(choice.get("finish_reason"), calls)))
    return found


def _from_claude(body: dict[str, Any]) -> list[_Choice]:
    blocks = _tables(body.get("content"))
    calls = tuple(
        _Call(str(block.get("id") or ""), str(block.get("name") or ""), _table(block.get("input")))
        for block in blocks
        if block.get("type") == "tool_use"
    )
    return [_Choice(_joined(blocks), calls, _end(body.get("stop_reason"), calls))]


def _from_gemini(body: dict[str, Any]) -> list[_Choice]:
    found = []
    for index, candidate in enumerate(_tables(body.get("candidates"))):
        parts = [
            part for part in _tables(_table(candidate.get("content")).get("parts")) if part.get("thought") is not True
        ]
        asked = [_table(part.get("functionCall")) for part in parts if "functionCall" in part]
        calls = tuple(
            _Call(
                str(call.get("id") or f"call_{index}_{number}"), str(call.get("name") or ""), _table(call.get("args"))
            )
            for number, call in enumerate(asked)
        )
        found.append(_Choice(_joined(parts), calls, _end(candidate.get("finishReason"), calls)))
    return found


def _end(told: object, calls: tuple[_Call, ...]) -> str:
    end = _ENDS.get(told, told) if type(told) is str else STOP
    if end not in (LENGTH, TOOLS, FILTER):
        return TOOLS if calls else STOP
    return str(end)


def _to_openai(reply: _Reply) -> dict[str, Any]:
    return {
        "id": reply.id,
        "object": "chat.completion",
        "model": reply.model,
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": choice.text,
                    **({"tool_calls": [_openai_call(call) for call in choice.calls]} if choice.calls else {}),
                },
                "finish_reason": choice.end,
            }
            for index, choice in enumerate(reply.choices)
        ],
        "usage": {
            "prompt_tokens": reply.input_tokens,
            "completion_tokens": reply.output_tokens,
            "total_tokens": reply.input_tokens + reply.output_tokens,
            "prompt_tokens_details": {
                "cached_tokens": reply.cached_tokens,
                "cache_write_tokens": reply.cache_write_tokens,
            },
            "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
        },
    }


def _openai_call(call: _Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": msgspec.json.encode(call.arguments).decode()}
    return {"id": call.id, "type": "function", "function": function}


def _to_claude(reply: _Reply) -> dict[str, Any]:
    first = reply.choices[0]
    content: list[dict[str, Any]] = [{"type": "text", "text": first.text}] if first.text else []
    content += [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in first.calls]
    return {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": _CLAUDE_ENDS[first.end],
        "stop_sequence": None,
        "usage": {  # there, input_tokens leaves out what was read from or written to the cache
            "input_tokens": max(0, reply.input_tokens - reply.cached_tokens - reply.cache_write_tokens),
            "cache_creation_input_tokens": reply.cache_write_tokens,
            "cache_read_input_tokens": reply.cached_tokens,
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"thinking_tokens": reply.reasoning_tokens},
        },
    }


def _to_gemini(reply: _Reply) -> dict[str, Any]:
    candidates = []
    for index, choice in enumerate(reply.choices):
        parts: list[dict[str, Any]] = [{"text": choice.text}] if choice.text else []
        parts += [{"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}} for call in choice.calls]
        content = {"role": "model", "parts": parts}
        candidates.append({"index": index, "content": content, "finishReason": _GEMINI_ENDS[choice.end]})
    return {
        "candidates": candidates,
        "usageMetadata": {  # there, thoughts stand beside the candidates' tokens
            "promptTokenCount": reply.input_tokens,
            "cachedContentTokenCount": reply.cached_tokens,
            "candidatesTokenCount": max(0, reply.output_tokens - reply.reasoning_tokens),
            "thoughtsTokenCount": reply.reasoning_tokens,
            "totalTokenCount": reply.input_tokens + reply.output_tokens,
        },
        "modelVersion": reply.model,
        "responseId": reply.id,
    }


_READERS = {OPENAI: _from_openai, CLAUDE: _from_claude, GEMINI: _from_gemini}
_WRITERS = {OPENAI: _to_openai, CLAUDE: _to_claude, GEMINI: _to_gemini}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _joined(parts: list[dict[str, Any]]) -> str | None:
    texts = [text for part in parts if isinstance(text := part.get("text"), str)]
    return "".join(texts) if texts else None


def _arguments(told: object) -> dict[str, Any]:
    """A call's arguments; what isn't the JSON object that it should be is kept under a name that says so."""
    try:
        value = msgspec.json.decode(told) if isinstance(told, str) else told
    except msgspec.MsgspecError:
        value = told
    return dict(value) if isinstance(value, Mapping) else {"_raw": value}
