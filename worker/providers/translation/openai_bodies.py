"""OpenAI's chat shape, which simple lines have too, read into the neutral shape; `openai` writes it.

It knows no other dialect, and nothing of replies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

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
    data_url,
    listed,
    mapping,
    refusal,
    refuse_rest,
    text_in,
)

_APART = ("model", "messages", "tools", "tool_choice", "response_format")
_MODES = {"auto": "auto", "none": "none", "required": "any"}
_SOUNDS = {"wav": "audio/wav", "mp3": "audio/mp3"}


def read(body: Mapping[str, Any], target: str) -> Ask:
    """A simple line or a chat/completions body in the neutral shape. Raises Untranslatable."""
    system, turns = _talk(body.get("messages"), target)
    tools = _tools(body.get("tools"), target)
    choice = _choice(body.get("tool_choice"), target)
    settings = Settings(target)
    for name, value in body.items():
        if name not in _APART:
            settings.put(name, value)
    agreed(tools, choice, settings)
    return Ask(target, system, turns, tools, choice, _form(body.get("response_format"), target), settings)


def _talk(messages: Any, target: str) -> tuple[tuple[Text, ...], tuple[Turn, ...]]:
    if not isinstance(messages, list) or not messages:
        raise Untranslatable("messages", "messages should be a list of {role, content} with at least one entry")
    system: list[Text] = []
    talk, begun = Talk(target), False
    for where, message in listed(messages, "messages", target):
        role = message.get("role")
        if role in ("system", "developer"):
            refuse_rest(message, ("role", "content"), where, target)
            if begun:
                raise refusal(where, target, "system messages can only stand at the beginning there")
            for part in _parts(message.get("content"), f"{where}.content", target):
                if not isinstance(part, Text):
                    raise refusal(part.where, target, "a system message can only hold text")
                system.append(part)
            continue
        begun = True
        if role == "user":
            refuse_rest(message, ("role", "content"), where, target)
            talk.add(Turn(where, role, _parts(message.get("content"), f"{where}.content", target)))
        elif role == "assistant":
            talk.add(Turn(where, role, _answer(message, where, target)))
        elif role == "tool":
            talk.add(Turn(where, "user", (_result(message, where, target),)))
        else:
            raise refusal(f"{where}.role", target, f"{role!r:.40} is none of system, developer, user, assistant, tool")
    if not begun:
        raise Untranslatable("messages", f"messages holds only system messages; {target} needs a user message")
    return tuple(system), talk.turns()


def _answer(message: Mapping[str, Any], where: str, target: str) -> tuple[Part, ...]:
    refuse_rest(message, ("role", "content", "tool_calls"), where, target)
    content, calls = message.get("content"), message.get("tool_calls")
    parts: list[Part] = []
    if content is not None and not (content == "" and calls) or not calls:
        parts.extend(_parts(content, f"{where}.content", target))
    for part in parts:
        if isinstance(part, Media):
            raise refusal(part.where, target, "a message of the assistant can only hold text")
    for spot, call in listed(calls or [], f"{where}.tool_calls", target):
        if call.get("type") != "function":
            raise refusal(
                f"{spot}.type" if "type" in call else spot, target, "only calls of type 'function' can be translated"
            )
        refuse_rest(call, ("id", "type", "function", "index"), spot, target)
        function = mapping(call.get("function"), f"{spot}.function", target)
        refuse_rest(function, ("name", "arguments"), f"{spot}.function", target)
        parts.append(
            ToolUse(
                spot,
                text_in(call.get("id"), f"{spot}.id", target),
                text_in(function.get("name"), f"{spot}.function.name", target),
                _arguments(function.get("arguments"), f"{spot}.function.arguments", target),
            )
        )
    return tuple(parts)


def _arguments(text: Any, where: str, target: str) -> Mapping[str, Any]:
    """The object that the arguments' text stands for; models leave it empty where a tool takes none."""
    try:
        # msgspec keeps every digit of a whole number
        value = msgspec.json.decode(text or "{}") if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise refusal(where, target, "it should be the text of a JSON object")
    return value


def _result(message: Mapping[str, Any], where: str, target: str) -> ToolResult:
    refuse_rest(message, ("role", "content", "tool_call_id"), where, target)
    parts = _parts(message.get("content"), f"{where}.content", target)
    for part in parts:
        if isinstance(part, Media):
            raise refusal(part.where, target, "the result of a tool can only hold text")
    if "tool_call_id" not in message:
        raise refusal(where, target, "a message of a tool needs a tool_call_id")
    return ToolResult(where, text_in(message["tool_call_id"], f"{where}.tool_call_id", target), parts)


def _parts(content: Any, where: str, target: str) -> tuple[Text | Media, ...]:
    if isinstance(content, str):
        return (Text(where, content),)
    if not isinstance(content, list) or not content:
        raise Untranslatable(where, f"{where} should be text or a list of parts")
    return tuple(_part(part, spot, target) for spot, part in listed(content, where, target))


def _part(part: Mapping[str, Any], where: str, target: str) -> Text | Media:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        refuse_rest(part, ("type", "text"), where, target)
        return Text(where, part["text"])
    if kind == "image_url":
        refuse_rest(part, ("type", "image_url"), where, target)
        return _image(part.get("image_url"), f"{where}.image_url", target)
    if kind == "file":
        refuse_rest(part, ("type", "file"), where, target)
        return _file(mapping(part.get("file"), f"{where}.file", target), f"{where}.file", target)
    if kind == "input_audio":
        refuse_rest(part, ("type", "input_audio"), where, target)
        sound = mapping(part.get("input_audio"), f"{where}.input_audio", target)
        refuse_rest(sound, ("data", "format"), f"{where}.input_audio", target)
        form = sound.get("format")
        if not isinstance(form, str) or form not in _SOUNDS:
            raise refusal(f"{where}.input_audio", target, "its format should be wav or mp3")
        data = base64_in(sound.get("data"), f"{where}.input_audio", target)
        return Media(where, "audio", _SOUNDS[form], data)
    raise refusal(where, target, f"a part of type {kind!r:.40} is none of text, image_url, file, input_audio")


def _image(image: Any, where: str, target: str) -> Media:
    if isinstance(image, Mapping):
        if image.get("detail") not in (None, "auto"):
            raise refusal(f"{where}.detail", target)
        refuse_rest(image, ("url", "detail"), where, target)
        image = image.get("url")
    if isinstance(image, str):
        if inline := data_url(image, where, target):
            if not inline[0].startswith("image/"):
                raise refusal(where, target, f"{inline[0]} is no image; a PDF goes into a part of type file")
            return Media(where, "image", *inline)
        if image.startswith(("https://", "http://", "gs://")):
            return Media(where, "image", url=image)
    raise refusal(where, target, "url should be an http(s) URL or a base64 data URL")


def _file(file: Mapping[str, Any], where: str, target: str) -> Media:
    refuse_rest(file, ("file_data", "filename"), where, target)
    inline = data_url(file["file_data"], where, target) if isinstance(file.get("file_data"), str) else None
    if inline is None:
        raise refusal(where, target, "its file_data should be a base64 data URL")
    name = file.get("filename")
    return Media(where, "document", *inline, name=name if isinstance(name, str) else "")


def _tools(tools: Any, target: str) -> tuple[Tool, ...]:
    found = []
    for where, tool in listed([] if tools is None else tools, "tools", target):
        if tool.get("type") != "function":
            raise refusal(
                f"{where}.type" if "type" in tool else where, target, "only tools of type 'function' can be translated"
            )
        refuse_rest(tool, ("type", "function"), where, target)
        function = mapping(tool.get("function"), f"{where}.function", target)
        refuse_rest(function, ("name", "description", "parameters", "strict"), f"{where}.function", target)
        schema = function.get("parameters")
        found.append(
            Tool(
                f"{where}.function.name",
                text_in(function.get("name"), f"{where}.function.name", target),
                function.get("description"),
                None if schema is None else mapping(schema, f"{where}.function.parameters", target),
                function.get("strict"),
            )
        )
    return tuple(found)


def _choice(choice: Any, target: str) -> Choice | None:
    where = "tool_choice"
    if choice is None:
        return None
    if isinstance(choice, str) and choice in _MODES:
        return Choice(where, _MODES[choice])
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        refuse_rest(choice, ("type", "function"), where, target)
        function = mapping(choice.get("function"), f"{where}.function", target)
        refuse_rest(function, ("name",), f"{where}.function", target)
        return Choice(where, "any", (text_in(function.get("name"), f"{where}.function.name", target),))
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        refuse_rest(choice, ("type", "allowed_tools"), where, target)
        allowed = mapping(choice.get("allowed_tools"), f"{where}.allowed_tools", target)
        refuse_rest(allowed, ("mode", "tools"), f"{where}.allowed_tools", target)
        names = []
        for spot, tool in listed(allowed.get("tools"), f"{where}.allowed_tools.tools", target):
            if tool.get("type") != "function":
                raise refusal(spot, target, "only tools of type 'function' can be translated")
            names.append(text_in(mapping(tool.get("function"), spot, target).get("name"), spot, target))
        if allowed.get("mode") in ("auto", "required") and names:
            return Choice(where, _MODES[allowed["mode"]], tuple(names))
    raise refusal(where, target, "it should be auto, none, required, a function or allowed_tools")


def _form(form: Any, target: str) -> Form | None:
    where = "response_format"
    if form is None or form == {"type": "text"}:
        return None
    if form == {"type": "json_object"}:
        return Form(where)
    inner = form.get("json_schema") if isinstance(form, Mapping) and form.get("type") == "json_schema" else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
        raise refusal(where, target, "it should be of type text, json_object or json_schema")
    # A schema's name is only a label, and both other dialects hold the answer to the schema always ("strict").
    refuse_rest(inner, ("name", "schema", "strict"), f"{where}.json_schema", target)
    refuse_rest(form, ("type", "json_schema"), where, target)
    label = inner.get("name")
    return Form(where, inner["schema"], label if isinstance(label, str) else "answer")
