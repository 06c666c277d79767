"""A provider's reply in another vendor's shape: text, tool calls, why it ended, usage; and untouched where it is its own.

It does not read what only one vendor has (log probabilities, citations, safety ratings): the raw reply has that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from models.formats.outcome import Outcome, one_line
from models.formats.vectors import members, vectors_in

OPENAI, CLAUDE, GEMINI = "openai", "claude", "gemini"

STOP, LENGTH, TOOLS, FILTER = "stop", "length", "tool_calls", "content_filter"
"""Why an answer ended, in OpenAI's words, into which the others' are read."""

_ENDS = {
    "function_call": TOOLS,
    "max_output_tokens": LENGTH,
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
class Called:
    """A tool that an answer calls. `arguments` are decoded; what is no JSON object stands under `_raw`, as it came."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Choice:
    text: str | None
    calls: tuple[Called, ...]
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
    body = _body(raw) if shape else None
    if body is None:
        shape, body = None, {}
    vectors = _vectors(raw) if shape else None
    if vectors is not None and dialect in _VECTOR_WRITERS:
        return msgspec.json.encode(_VECTOR_WRITERS[dialect](outcome, vectors))
    return msgspec.json.encode(_WRITERS[dialect](_read(outcome, shape, body)))


def calls_in(raw: bytes) -> list[Called]:
    """The tools that a reply's answer (its first, if it holds several) calls; none in a reply whose shape is unknown."""
    if not any(mark in raw for mark in _CALL_MARKS):
        return []
    shape = shape_of(raw)
    body = _body(raw) if shape else None
    choices = _READERS[shape](body) if shape and body is not None else []
    return list(choices[0].calls) if choices else []


_CALL_MARKS = (b'"tool_calls"', b'"function_call"', b'"custom_tool_call"', b'"tool_use"', b'"functionCall"')


def _body(raw: bytes) -> dict[str, Any] | None:
    """A reply's body; None if it can't be read as a JSON object."""
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _vectors(raw: bytes) -> list[msgspec.Raw] | None:
    """The vectors of a reply to a question for embeddings, as they came; None for any other reply."""
    found = vectors_in(members(raw))
    return None if found is None else [msgspec.Raw(one_line(bytes(vector)) or b"null") for vector in found]


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
    """Choices of a chat or of a legacy completion, else the one answer of `/responses`."""
    if "choices" not in body and isinstance(body.get("output"), list):
        answer = _from_responses(body)
        return [answer] if answer.text is not None or answer.calls else []
    found = []
    for choice in _tables(body.get("choices")):
        message = choice.get("message")
        if type(message) is not dict:
            if isinstance(choice.get("text"), str):
                found.append(_Choice(choice["text"], (), _end(choice.get("finish_reason"), ())))
            continue
        asked = [*_tables(message.get("tool_calls")), {"function": message.get("function_call")}]
        calls = tuple(called for call in asked if (called := _openai_called(call)))
        content = message.get("content")
        text = content if type(content) is str else _joined(_tables(content)) or message.get("refusal")
        found.append(_Choice(text, calls, _end(choice.get("finish_reason"), calls)))
    return found


def _openai_called(call: dict[str, Any]) -> Called | None:
    name = str(call.get("id") or "")
    if custom := _table(call.get("custom")):  # its input is free text
        return Called(name, str(custom.get("name") or ""), {"input": custom.get("input")})
    function = _table(call.get("function"))
    return Called(name, str(function.get("name") or ""), _arguments(function.get("arguments"))) if function else None


def _from_responses(body: dict[str, Any]) -> _Choice:
    items = _tables(body.get("output"))
    calls = tuple(
        Called(
            str(item.get("call_id") or item.get("id") or ""),
            str(item.get("name") or ""),
            _arguments(item.get("arguments")) if item["type"] == "function_call" else {"input": item.get("input")},
        )
        for item in items
        if item.get("type") in ("function_call", "custom_tool_call")
    )
    parts = [part for item in items if item.get("type") == "message" for part in _tables(item.get("content"))]
    refusal = next((part["refusal"] for part in parts if isinstance(part.get("refusal"), str)), None)
    why = _table(body.get("incomplete_details")).get("reason")
    return _Choice(_joined(parts) or refusal, calls, _end(why, calls))


def _from_claude(body: dict[str, Any]) -> list[_Choice]:
    blocks = _tables(body.get("content"))
    calls = tuple(
        Called(str(block.get("id") or ""), str(block.get("name") or ""), _table(block.get("input")))
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
            Called(
                str(call.get("id") or f"call_{index}_{number}"), str(call.get("name") or ""), _table(call.get("args"))
            )
            for number, call in enumerate(asked)
        )
        found.append(_Choice(_joined(parts), calls, _end(candidate.get("finishReason"), calls)))
    return found


def _end(told: object, calls: tuple[Called, ...]) -> str:
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


def _openai_call(call: Called) -> dict[str, Any]:
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


def _openai_vectors(outcome: Outcome, vectors: list[msgspec.Raw]) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)],
        "model": outcome.served_model or outcome.requested_model or "",
        "usage": {"prompt_tokens": outcome.input_tokens or 0, "total_tokens": outcome.input_tokens or 0},
    }


def _gemini_vectors(outcome: Outcome, vectors: list[msgspec.Raw]) -> dict[str, Any]:
    return {"embeddings": [{"values": vector} for vector in vectors]}


_VECTOR_WRITERS = {OPENAI: _openai_vectors, GEMINI: _gemini_vectors}
"""Claude has no embeddings, and its form no place for vectors."""
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
    """A call's arguments, an empty object where there are none; what isn't the JSON object that it should be is kept under a name that
    says so."""
    if told is None or (isinstance(told, str) and not told.strip()):
        return {}
    try:
        value = msgspec.json.decode(told) if isinstance(told, str) else told
    except msgspec.MsgspecError:
        value = told
    return dict(value) if isinstance(value, Mapping) else {"_raw": value}
