"""Claude's messages, written from the neutral shape; `claude_bodies` reads them.

It knows no other dialect, and nothing of replies.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from worker.providers.neutral import (
    Ask,
    Media,
    Part,
    Settings,
    Text,
    Tool,
    ToolResult,
    ToolUse,
    Turn,
    checked_name,
    given,
    refusal,
    with_ids,
)
from worker.providers.replies import encode

TARGET = "Claude"
WITHOUT_SAMPLING = "2026-10-21"
"""From this API version on, temperature, top_p and top_k are refused even at their defaults."""
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_TIERS_OUT = {"auto": "auto", "default": "standard_only"}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def write(ask: Ask, model: str, *, bound: int, version: str) -> dict[str, Any]:
    """A messages body. `bound` is the answer's bound where the request has none. Raises Untranslatable."""
    settings = ask.settings
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": settings.take("max_completion_tokens", "max_tokens") or bound,
        "system": "\n\n".join(part.text for part in ask.system) or None,
        "messages": [{"role": turn.role, "content": _blocks(turn, ask.target)} for turn in with_ids(ask.turns, _ID)],
    }
    _check_end(ask)
    sampled = [name for name in ("temperature", "top_p", "top_k") if name in settings]
    if sampled and version >= WITHOUT_SAMPLING:
        raise refusal(
            settings.where(sampled[0]),
            ask.target,
            f"anthropic-version {version} takes no {sampled[0]}; leave it out, or set drop_sampling: true for this provider",
        )
    body |= {
        "temperature": settings.take_number("temperature", 0, 1),
        "top_p": settings.take_number("top_p", 0, 1),
        "top_k": settings.take_number("top_k", 0, 10**9),
        "stop_sequences": _stop(settings),
        "stream": settings.take("stream"),
    }
    if user := settings.take("safety_identifier", "user"):
        body["metadata"] = {"user_id": user}
    if ask.tools:
        body["tools"] = [_tool(tool, ask.target) for tool in ask.tools]
    body["tool_choice"] = _written_choice(ask)
    output = _thinking(ask, body)
    if ask.form and ask.form.schema is None:
        raise refusal(ask.form.where, ask.target, "there is no JSON mode without a schema; use type json_schema")
    if ask.form:
        output["format"] = {"type": "json_schema", "schema": ask.form.schema}
    body["output_config"] = output or None
    where = settings.where("service_tier")
    if (tier := settings.take("service_tier")) is not None:
        if not isinstance(tier, str) or tier not in _TIERS_OUT:
            raise refusal(where, ask.target, f"there is no tier like {tier!r:.40}")
        body["service_tier"] = _TIERS_OUT[tier]
    settings.take("stream_options")  # asks for the usage, which comes in any case
    settings.take_only("n", 1)
    settings.take_only("store", False)
    settings.done()
    return given(body)


def _check_end(ask: Ask) -> None:
    """A last message of the assistant is one that Claude goes on writing; it refuses one that ends with a space."""
    last = ask.turns[-1]
    if last.role == "assistant" and isinstance(last.parts[-1], Text):
        text = last.parts[-1].text
        if text != text.rstrip():
            raise refusal(last.parts[-1].where, ask.target, "the last message of the assistant can't end with a blank")


def _stop(settings: Settings) -> list[str] | None:
    where = settings.where("stop")
    stop = settings.take_stop()
    if stop and not all(text.strip() for text in stop):
        raise refusal(where, settings.target, "each should hold more than blanks")
    return stop


def _blocks(turn: Turn, target: str) -> str | list[dict[str, Any]]:
    if len(turn.parts) == 1 and isinstance(turn.parts[0], Text):
        return _said(turn.parts[0], target)
    return [_block(part, turn.role, target) for part in turn.parts]


def _said(part: Text, target: str) -> str:
    if not part.text.strip():
        raise refusal(part.where, target, "a text can't be empty or blank there")
    return part.text


def _block(part: Part, role: str, target: str) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": _said(part, target)}
        case ToolUse():
            name = checked_name(part.where, part.name, _NAME, target)
            return {"type": "tool_use", "id": part.id, "name": name, "input": part.arguments}
        case ToolResult():
            block: dict[str, Any] = {"type": "tool_result", "tool_use_id": part.id}
            if part.value is not None:
                block["content"] = encode(part.value).decode()
            elif len(part.parts) == 1 and isinstance(part.parts[0], Text):
                block["content"] = part.parts[0].text
            elif part.parts:
                block["content"] = [_block(inner, role, target) for inner in part.parts]
            return {**block, "is_error": True} if part.failed else block
        case Media():
            if role == "assistant":
                raise refusal(part.where, target, "a message of the assistant can only hold text")
            return _medium(part, target)


def _medium(part: Media, target: str) -> dict[str, Any]:
    if part.kind not in ("image", "document"):
        raise refusal(part.where, target, f"it takes no {part.kind}")
    if part.url and not part.url.startswith(("https://", "http://")):
        raise refusal(part.where, target, "it takes http(s) URLs and data only")
    source: dict[str, Any] = {"type": "url", "url": part.url}
    if not part.url:
        source = {"type": "base64", "media_type": part.media_type, "data": part.data}
        if part.kind == "image" and part.media_type not in _IMAGES:
            raise refusal(part.where, target, f"it takes {', '.join(_IMAGES)}, not {part.media_type:.60}")
        if part.kind == "document" and part.media_type == "text/plain":
            source = {"type": "text", "media_type": "text/plain", "data": _plain(part, target)}
        elif part.kind == "document" and part.media_type != "application/pdf":
            raise refusal(part.where, target, f"it takes application/pdf and text/plain, not {part.media_type:.60}")
    return given({"type": part.kind, "source": source, "title": part.name or None})


def _plain(part: Media, target: str) -> str:
    try:
        return base64.b64decode(part.data).decode()
    except ValueError:
        raise refusal(part.where, target, "a text/plain document should be UTF-8") from None


def _tool(tool: Tool, target: str) -> dict[str, Any]:
    schema = _NO_ARGUMENTS if tool.schema is None else tool.schema
    if schema.get("type") != "object":
        if schema:
            raise refusal(tool.where, target, "the schema of its arguments should be of type object")
        schema = _NO_ARGUMENTS
    name = checked_name(tool.where, tool.name, _NAME, target)
    return given({"name": name, "description": tool.description, "input_schema": schema, "strict": tool.strict})


def _written_choice(ask: Ask) -> dict[str, Any] | None:
    where = ask.settings.where("parallel_tool_calls")
    parallel = ask.settings.take("parallel_tool_calls")
    if parallel is not None and not ask.tools:
        raise refusal(where, ask.target, "there are no tools")
    choice = ask.choice
    if choice and (len(choice.names) > 1 or (choice.names and choice.mode == "auto")):
        raise refusal(choice.where, ask.target, "it takes one tool by name, or any; leave the others out of tools")
    if choice is None and parallel is not False:
        return None
    written: dict[str, Any] = {"type": choice.mode if choice else "auto"}
    if choice and choice.names:
        written = {"type": "tool", "name": choice.names[0]}
    if parallel is False and written["type"] != "none":
        written["disable_parallel_tool_use"] = True
    return written


def _thinking(ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
    """Puts `thinking` into the body; returns what of it belongs into `output_config`."""
    settings = ask.settings
    effort_at, budget_at = settings.where("reasoning_effort"), settings.where("thinking_budget")
    effort, budget = settings.take("reasoning_effort"), settings.take("thinking_budget")
    if effort is None and budget is None:
        return {}
    where = effort_at if budget is None else budget_at
    if effort == "none" or budget == 0:
        body["thinking"] = {"type": "disabled"}
        return {}
    if effort is not None and effort not in _EFFORTS:
        raise refusal(effort_at, ask.target, f"{effort!r:.40} is none of none, {', '.join(_EFFORTS)}")
    body["thinking"] = {"type": "adaptive"}
    if budget is not None and budget != -1:
        most = body["max_tokens"]
        if type(budget) is not int or type(most) is not int or not 1024 <= budget < most:
            raise refusal(budget_at, ask.target, "it should be at least 1024 and below max_tokens there")
        if ask.turns[-1].results():
            raise refusal(
                budget_at, ask.target, "a budget of thoughts needs the thoughts that led to the last call of a tool"
            )
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if body["temperature"] not in (None, 1) or body["top_k"] is not None or (body["top_p"] or 1) < 0.95:
        raise refusal(where, ask.target, "it thinks only without temperature, top_k and a top_p below 0.95")
    if body["tool_choice"] and body["tool_choice"]["type"] in ("any", "tool"):
        raise refusal(where, ask.target, "it thinks only where tool_choice is auto or none")
    if ask.turns[-1].role == "assistant":
        raise refusal(where, ask.target, "it thinks only where the last message is the user's")
    return {"effort": effort} if effort is not None else {}
