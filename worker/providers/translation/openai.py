"""OpenAI's chat shape, written from the neutral shape; `openai_bodies` reads it.

It knows no other dialect, and nothing of replies.
"""

from __future__ import annotations

import re
from typing import Any

from worker.providers.neutral import (
    Ask,
    Choice,
    Media,
    Text,
    Tool,
    ToolResult,
    Turn,
    checked_name,
    given,
    refusal,
    with_ids,
)
from worker.providers.replies import encode

TARGET = "OpenAI"
_MODES = {"auto": "auto", "none": "none", "any": "required"}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,40}", re.ASCII)
_SOUND_FORMATS = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def write(ask: Ask, model: str) -> dict[str, Any]:
    """A chat/completions body. Raises Untranslatable."""
    settings = ask.settings
    body: dict[str, Any] = {"model": model, "messages": _messages(ask)}
    if ask.tools:
        body["tools"] = [{"type": "function", "function": _function(tool, ask.target)} for tool in ask.tools]
    if ask.choice:
        body["tool_choice"] = _written_choice(ask.choice)
    if ask.form:
        body["response_format"] = {"type": "json_object"}
        if ask.form.schema is not None:
            schema = {"name": ask.form.label, "schema": ask.form.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    where = settings.where("stop")
    stop = settings.take_stop()
    if stop and len(stop) > 4:
        raise refusal(where, ask.target, f"it takes 4 of these at most, not {len(stop)}")
    where = settings.where("reasoning_effort")
    effort = settings.take("reasoning_effort")
    if effort is not None and effort not in _EFFORTS:
        raise refusal(where, ask.target, f"{effort!r:.40} is none of {', '.join(_EFFORTS)}")
    body |= {
        "max_tokens": settings.take("max_completion_tokens", "max_tokens"),
        "temperature": settings.take_number("temperature", 0, 2),
        "top_p": settings.take_number("top_p", 0, 1),
        "presence_penalty": settings.take_number("presence_penalty", -2, 2),
        "frequency_penalty": settings.take_number("frequency_penalty", -2, 2),
        "seed": settings.take("seed"),
        "n": settings.take("n"),
        "stop": stop,
        "logprobs": settings.take("logprobs"),
        "top_logprobs": settings.take("top_logprobs"),
        "parallel_tool_calls": settings.take("parallel_tool_calls"),
        "reasoning_effort": effort,
        "service_tier": settings.take("service_tier"),
        "safety_identifier": settings.take("user"),
        "stream": settings.take("stream"),
    }
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    settings.done()
    return given(body)


def _messages(ask: Ask) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if ask.system:
        messages.append({"role": "system", "content": _content(ask.system, ask.target)})
    for turn in with_ids(ask.turns, _ID):
        if turn.role == "assistant":
            messages.append(_written_answer(turn, ask.target))
            continue
        for result in turn.results():
            messages.append({"role": "tool", "tool_call_id": result.id, "content": _outcome(result, ask.target)})
        if said := turn.said():
            messages.append({"role": "user", "content": _content(said, ask.target)})
    return messages


def _written_answer(turn: Turn, target: str) -> dict[str, Any]:
    for part in turn.said():
        if isinstance(part, Media):
            raise refusal(part.where, target, "a message of the assistant can only hold text")
    message: dict[str, Any] = {"role": "assistant", "content": _content(turn.said(), target) if turn.said() else None}
    if calls := turn.uses():
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": checked_name(call.where, call.name, _NAME, target),
                    "arguments": encode(call.arguments).decode(),
                },
            }
            for call in calls
        ]
    return message


def _outcome(result: ToolResult, target: str) -> str | list[dict[str, Any]]:
    """There is no mark for a failure there, so its text is put into an object that says so."""
    for part in result.parts:
        if isinstance(part, Media):
            raise refusal(part.where, target, "the result of a tool can only hold text")
    if result.value is not None:
        return encode(result.value).decode()
    if result.failed:
        texts = [part.text for part in result.parts if isinstance(part, Text)]
        return encode({"error": "\n\n".join(texts)}).decode()
    return _content(result.parts, target) if result.parts else ""


def _content(parts: tuple[Text | Media, ...] | tuple[Text, ...] | list[Text | Media], target: str) -> Any:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_written_part(part, target) for part in parts]


def _written_part(part: Text | Media, target: str) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    inline = f"data:{part.media_type};base64,{part.data}"
    if part.kind == "image" and part.url.startswith("gs://"):
        raise refusal(part.where, target, "it takes http(s) URLs and data only")
    if part.kind == "image":
        return {"type": "image_url", "image_url": {"url": part.url or inline}}
    if part.url:
        raise refusal(part.where, target, "it takes no URLs of documents; give the document as base64 data")
    if part.kind == "document":
        if part.media_type != "application/pdf":
            raise refusal(part.where, target, f"it takes PDF documents only, not {part.media_type:.60}")
        return {"type": "file", "file": {"filename": part.name or "document.pdf", "file_data": inline}}
    if part.media_type not in _SOUND_FORMATS:
        raise refusal(part.where, target, f"it takes sound as wav and mp3 only, not {part.media_type:.60}")
    return {"type": "input_audio", "input_audio": {"data": part.data, "format": _SOUND_FORMATS[part.media_type]}}


def _function(tool: Tool, target: str) -> dict[str, Any]:
    return given(
        {
            "name": checked_name(tool.where, tool.name, _NAME, target),
            "description": tool.description,
            "parameters": tool.schema,
            "strict": tool.strict,
        }
    )


def _written_choice(choice: Choice) -> Any:
    word = _MODES[choice.mode]
    functions = [{"type": "function", "function": {"name": name}} for name in choice.names]
    if len(functions) == 1 and choice.mode == "any":
        return functions[0]
    return {"type": "allowed_tools", "allowed_tools": {"mode": word, "tools": functions}} if functions else word
