"""Claude's messages bodies, read into the neutral shape; `claude` writes them.

It knows no other dialect, and nothing of replies.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from models.errors import Untranslatable
from worker.providers.neutral import (
    Ask,
    Choice,
    Form,
    Media,
    Part,
    Settings,
    Talk,
    Text,
    Tool,
    ToolResult,
    ToolUse,
    Turn,
    agreed,
    base64_in,
    listed,
    mapping,
    refusal,
    refuse_rest,
    text_in,
)
from worker.providers.replies import storable

_PLAIN = ("max_tokens", "temperature", "top_p", "top_k", "stream")
_READ = (
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "stop_sequences",
    "metadata",
    "thinking",
    "output_config",
)
_APART = (*_READ, *_PLAIN)
_MODES = {"auto": "auto", "any": "any", "none": "none", "tool": "any"}
_TIERS_IN = {"auto": "auto", "standard_only": "default"}


def read(body: Mapping[str, Any], target: str) -> Ask:
    """A messages body in the neutral shape. Raises Untranslatable."""
    system = _system(body.get("system"), target)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Untranslatable("messages", "messages should be a list of {role, content} with at least one entry")
    talk = Talk(target)
    for where, message in listed(messages, "messages", target):
        refuse_rest(message, ("role", "content"), where, target)
        role = message.get("role")
        if role not in ("user", "assistant"):
            raise refusal(f"{where}.role", target, f"{role!r:.40} is none of user, assistant")
        talk.add(Turn(where, role, _parts(message.get("content"), f"{where}.content", target)))
    tools = _tools(body.get("tools"), target)
    settings = Settings(target)
    for name in _PLAIN:
        settings.put(name, body.get(name))
    settings.put("stop", body.get("stop_sequences"), "stop_sequences")
    metadata = mapping(body.get("metadata") or {}, "metadata", target)
    refuse_rest(metadata, ("user_id",), "metadata", target)
    settings.put("user", metadata.get("user_id"), "metadata.user_id")
    choice = _choice(body.get("tool_choice"), settings, target)
    form = _output(body.get("output_config"), body.get("thinking"), settings, target)
    for name, value in body.items():
        if name == "service_tier" and isinstance(value, str):
            settings.put(name, _TIERS_IN.get(value, value))
        elif name not in _APART:
            settings.put(name, value)
    agreed(tools, choice, settings)
    return Ask(target, system, talk.turns(), tools, choice, form, settings)


def _system(system: Any, target: str) -> tuple[Text, ...]:
    if system is None:
        return ()
    parts = _parts(system, "system", target)
    for part in parts:
        if not isinstance(part, Text):
            raise refusal(part.where, target, "a system message can only hold text")
    return tuple(part for part in parts if isinstance(part, Text))


def _parts(content: Any, where: str, target: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(where, content),)
    if not isinstance(content, list) or not content:
        raise Untranslatable(where, f"{where} should be text or a list of blocks")
    return tuple(_part(block, spot, target) for spot, block in listed(content, where, target))


def _part(block: Mapping[str, Any], where: str, target: str) -> Part:
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        refuse_rest(block, ("type", "text"), where, target)
        return Text(where, block["text"])
    if kind in ("image", "document"):
        return _media(block, kind, where, target)
    if kind == "tool_use":
        refuse_rest(block, ("type", "id", "name", "input"), where, target)
        return ToolUse(
            where,
            text_in(block.get("id"), f"{where}.id", target),
            text_in(block.get("name"), f"{where}.name", target),
            mapping(block.get("input"), f"{where}.input", target),
        )
    if kind == "tool_result":
        refuse_rest(block, ("type", "tool_use_id", "content", "is_error"), where, target)
        content = block.get("content")
        parts = _parts(content, f"{where}.content", target) if content else ()
        said = tuple(part for part in parts if isinstance(part, Text | Media))
        if len(said) != len(parts):
            raise refusal(f"{where}.content", target, "a tool's result can hold text and media only")
        name = text_in(block.get("tool_use_id"), f"{where}.tool_use_id", target)
        return ToolResult(where, name, said, failed=block.get("is_error") is True)
    raise refusal(where, target, f"a block of type {kind!r:.60} has no counterpart there")


def _media(block: Mapping[str, Any], kind: str, where: str, target: str) -> Media:
    refuse_rest(block, ("type", "source", *(("title",) if kind == "document" else ())), where, target)
    spot = f"{where}.source"
    source = mapping(block.get("source"), spot, target)
    name = block.get("title") if isinstance(block.get("title"), str) else ""
    media_type = source.get("media_type")
    match source.get("type"):
        case "base64":
            refuse_rest(source, ("type", "media_type", "data"), spot, target)
            media_type = text_in(media_type, f"{spot}.media_type", target)
            return Media(where, kind, media_type, base64_in(source.get("data"), spot, target), name=name or "")
        case "url":
            refuse_rest(source, ("type", "url"), spot, target)
            return Media(where, kind, url=text_in(source.get("url"), f"{spot}.url", target), name=name or "")
        case "text" if kind == "document":
            refuse_rest(source, ("type", "media_type", "data"), spot, target)
            data = storable(text_in(source.get("data"), f"{spot}.data", target)).encode()
            return Media(where, kind, "text/plain", base64.b64encode(data).decode(), name=name or "")
    raise refusal(spot, target, "only sources of type base64, url and (for documents) text can be translated")


def _tools(tools: Any, target: str) -> tuple[Tool, ...]:
    found = []
    for where, tool in listed([] if tools is None else tools, "tools", target):
        if tool.get("type") not in (None, "custom"):
            raise refusal(
                f"{where}.type", target, "only tools of your own can be translated, not those that Claude brings"
            )
        refuse_rest(tool, ("type", "name", "description", "input_schema", "strict"), where, target)
        schema = mapping(tool.get("input_schema"), f"{where}.input_schema", target)
        name = text_in(tool.get("name"), f"{where}.name", target)
        found.append(Tool(f"{where}.name", name, tool.get("description"), schema, tool.get("strict")))
    return tuple(found)


def _choice(choice: Any, settings: Settings, target: str) -> Choice | None:
    if choice is None:
        return None
    where = "tool_choice"
    choice = mapping(choice, where, target)
    refuse_rest(choice, ("type", "name", "disable_parallel_tool_use"), where, target)
    kind, apart = choice.get("type"), choice.get("disable_parallel_tool_use")
    if apart is not None:
        settings.put("parallel_tool_calls", apart is not True, f"{where}.disable_parallel_tool_use")
    if not isinstance(kind, str) or kind not in _MODES:
        raise refusal(where, target, "its type should be auto, any, tool or none")
    names = (text_in(choice.get("name"), f"{where}.name", target),) if kind == "tool" else ()
    return Choice(where, _MODES[kind], names)


def _output(config: Any, thinking: Any, settings: Settings, target: str) -> Form | None:
    """Reads `output_config` and `thinking`: into effort, budget and the answer's form."""
    config = mapping(config or {}, "output_config", target)
    refuse_rest(config, ("effort", "format"), "output_config", target)
    thinking = mapping(thinking or {}, "thinking", target)
    settings.put("reasoning_effort", config.get("effort"), "output_config.effort")
    match thinking.get("type"):
        case "disabled":
            refuse_rest(thinking, ("type",), "thinking", target)
            settings.put("reasoning_effort", "none", "thinking")
        case "adaptive":
            refuse_rest(thinking, ("type",), "thinking", target)
            # high is what Claude takes where no effort is named
            settings.put("reasoning_effort", config.get("effort") or "high", "thinking")
        case "enabled":
            refuse_rest(thinking, ("type", "budget_tokens"), "thinking", target)
            settings.put("thinking_budget", thinking.get("budget_tokens"), "thinking.budget_tokens")
        case None if not thinking:
            pass
        case _:
            raise refusal("thinking", target, "only adaptive, enabled and disabled can be translated")
    form = config.get("format")
    if form is None:
        return None
    where = "output_config.format"
    form = mapping(form, where, target)
    refuse_rest(form, ("type", "schema"), where, target)
    if form.get("type") != "json_schema":
        raise refusal(where, target, "it should be of type json_schema")
    return Form(where, mapping(form.get("schema"), f"{where}.schema", target))
