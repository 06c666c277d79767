"""Gemini's generateContent bodies, read into the neutral shape; `gemini` writes them.

It knows no other dialect, and nothing of replies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
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

_SETTINGS = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "candidateCount": "n",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "responseLogprobs": "logprobs",
    "logprobs": "top_logprobs",
}
_WHOLE = {"topK", "maxOutputTokens", "seed", "candidateCount", "logprobs"}
_FORM = ("responseMimeType", "responseJsonSchema", "responseSchema")
_MODES = {"MODE_UNSPECIFIED": "auto", "AUTO": "auto", "VALIDATED": "auto", "ANY": "any", "NONE": "none"}
_TIERS = {"standard": "default", "flex": "flex", "priority": "priority"}
_READ = ("model", "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier")
_FOREIGN_URL = re.compile(
    r"https?://(?!generativelanguage\.googleapis\.com/|(?:www\.)?youtube\.com/|youtu\.be/)", re.ASCII
)
_TYPES = {"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"}
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_KEPT = ("format", "title", "description", "enum", "required", "default", "minimum", "maximum", "pattern", *_COUNTS)


def read(body: Mapping[str, Any], target: str) -> Ask:
    """A generateContent body in the neutral shape; both spellings of its fields are read. Raises Untranslatable."""
    fields = _fields(body, "", target)
    settings = Settings(target)
    for name, value in fields.items():
        if name not in _READ:
            settings.put(name, value)
    tier = fields.get("serviceTier")
    settings.put("service_tier", _TIERS.get(tier, tier) if isinstance(tier, str) else tier, "serviceTier")
    system: tuple[Text, ...] = ()
    if fields.get("systemInstruction") is not None:
        _, parts = _content(fields["systemInstruction"], "systemInstruction", [], target)
        system = tuple(part for part in parts if isinstance(part, Text))
        if len(system) != len(parts):
            raise refusal("systemInstruction", target, "a system message can only hold text")
    tools = _tools(fields.get("tools"), target)
    choice, strict = _choice(fields.get("toolConfig"), target)
    if strict:
        tools = tuple(replace(tool, strict=True) for tool in tools)
    config = _fields(fields.get("generationConfig") or {}, "generationConfig", target)
    for name, value in config.items():
        where = f"generationConfig.{name}"
        if name in _SETTINGS:
            settings.put(_SETTINGS[name], _number(value) if name in _WHOLE else value, where)
        elif name == "thinkingConfig" and value is not None:
            _thinking(value, settings, target)
        elif name == "responseModalities" and value == ["TEXT"]:
            continue
        elif name not in _FORM:
            settings.put(where, value)
    agreed(tools, choice, settings)
    return Ask(target, system, _turns(fields.get("contents"), target), tools, choice, _form(config, target), settings)


def _fields(value: Any, where: str, target: str) -> dict[str, Any]:
    """An object's fields in camelCase: the API takes snake_case too."""
    return {_camel(name): inner for name, inner in mapping(value, where or "body", target).items()}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _number(value: Any) -> Any:
    """Whole numbers may be written as text."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII) else value


def _turns(contents: Any, target: str) -> tuple[Turn, ...]:
    contents = [contents] if isinstance(contents, Mapping) else contents
    if not isinstance(contents, list) or not contents:
        raise Untranslatable("contents", "contents should be a list of {role, parts} with at least one entry")
    talk = Talk(target)
    waiting: list[ToolUse] = []
    for index, content in enumerate(contents):
        where = f"contents[{index}]"
        role, parts = _content(content, where, waiting, target)
        if role not in (None, "user", "model", "function"):
            raise refusal(f"{where}.role", target, f"{role!r:.40} is none of user, model")
        if role == "model":
            waiting = [part for part in parts if isinstance(part, ToolUse)]
        talk.add(Turn(where, "assistant" if role == "model" else "user", parts))
    return talk.turns()


def _content(content: Any, where: str, waiting: list[ToolUse], target: str) -> tuple[Any, tuple[Part, ...]]:
    """Role and parts. `waiting` are the calls whose results may stand here; each is taken out once it has its own."""
    fields = _fields(content, where, target)
    refuse_rest(fields, ("role", "parts"), where, target)
    parts = fields.get("parts")
    parts = [parts] if isinstance(parts, Mapping) else parts
    if not isinstance(parts, list) or not parts:
        raise Untranslatable(f"{where}.parts", f"{where}.parts should be a list with at least one part")
    return fields.get("role"), tuple(
        _part(part, spot, waiting, target) for spot, part in listed(parts, f"{where}.parts", target)
    )


def _part(part: Mapping[str, Any], where: str, waiting: list[ToolUse], target: str) -> Part:
    fields = _fields(part, where, target)
    fields.pop("thoughtSignature", None)  # means something to the model only that wrote it
    if fields.get("thought") is True:
        raise refusal(f"{where}.thought", target, "another provider can't go on with a model's thoughts")
    fields.pop("thought", None)
    kind = next(iter(fields), "")
    refuse_rest(fields, (kind,), where, target)
    value = fields.get(kind)
    spot = f"{where}.{kind}"
    if kind == "text" and isinstance(value, str):
        return Text(where, value)
    if kind == "inlineData":
        blob = _fields(value, spot, target)
        refuse_rest(blob, ("mimeType", "data"), spot, target)
        media_type = text_in(blob.get("mimeType"), f"{spot}.mimeType", target)
        return Media(where, _kind(media_type), media_type, base64_in(blob.get("data"), spot, target))
    if kind == "fileData":
        file = _fields(value, spot, target)
        refuse_rest(file, ("mimeType", "fileUri"), spot, target)
        url = text_in(file.get("fileUri"), f"{spot}.fileUri", target)
        media_type = text_in(file.get("mimeType", "image/*"), f"{spot}.mimeType", target)
        if not _FOREIGN_URL.match(url) or not media_type.startswith(("image/", "application/pdf")):
            raise refusal(f"{spot}.fileUri", target, "only Gemini can read it; give the data inline")
        return Media(where, _kind(media_type), media_type, url=url)
    if kind == "functionCall":
        call = _fields(value, spot, target)
        refuse_rest(call, ("id", "name", "args"), spot, target)
        arguments = mapping(call.get("args") or {}, f"{spot}.args", target)
        identity = text_in(call.get("id") or where, f"{spot}.id", target)
        return ToolUse(where, identity, text_in(call.get("name"), f"{spot}.name", target), arguments)
    if kind == "functionResponse":
        return _result(_fields(value, spot, target), where, spot, waiting, target)
    raise refusal(spot if kind else where, target)


def _kind(media_type: str) -> str:
    head = media_type.partition("/")[0]
    return {"application": "document", "text": "document"}.get(head, head)


def _result(fields: dict[str, Any], where: str, spot: str, waiting: list[ToolUse], target: str) -> ToolResult:
    """A result is its call's by id, or else the first open call's of that name."""
    refuse_rest(fields, ("id", "name", "response"), spot, target)
    name = text_in(fields.get("name"), f"{spot}.name", target)
    told = fields.get("id")
    use = next((use for use in waiting if use.id == told or (not told and use.name == name)), None)
    if use is None:
        raise refusal(spot, target, f"no call of {name!r:.80} stands right before it")
    waiting.remove(use)
    value = mapping(fields.get("response"), f"{spot}.response", target)
    for key in ("output", "error"):
        if value.keys() == {key} and isinstance(value[key], str):
            return ToolResult(where, use.id, (Text(where, value[key]),), failed=key == "error")
    return ToolResult(where, use.id, (), value=value)


def _tools(tools: Any, target: str) -> tuple[Tool, ...]:
    found = []
    for where, tool in listed([] if tools is None else tools, "tools", target):
        fields = _fields(tool, where, target)
        refuse_rest(fields, ("functionDeclarations",), where, target)
        for spot, one in listed(fields.get("functionDeclarations"), f"{where}.functionDeclarations", target):
            function = _fields(one, spot, target)
            refuse_rest(function, ("name", "description", "parameters", "parametersJsonSchema"), spot, target)
            schema = function.get("parametersJsonSchema")
            if schema is None and function.get("parameters") is not None:
                schema = _schema(function["parameters"], f"{spot}.parameters", target)
            name = text_in(function.get("name"), f"{spot}.name", target)
            if schema is not None:
                schema = mapping(schema, f"{spot}.parametersJsonSchema", target)
            found.append(Tool(f"{spot}.name", name, function.get("description"), schema))
    return tuple(found)


def _choice(config: Any, target: str) -> tuple[Choice | None, bool]:
    """What is said about calling, and whether calls must fit their schemas."""
    if config is None:
        return None, False
    where = "toolConfig.functionCallingConfig"
    outer = _fields(config, "toolConfig", target)
    refuse_rest(outer, ("functionCallingConfig",), "toolConfig", target)
    if outer.get("functionCallingConfig") is None:
        return None, False
    calling = _fields(outer["functionCallingConfig"], where, target)
    refuse_rest(calling, ("mode", "allowedFunctionNames"), where, target)
    mode, names = calling.get("mode", "AUTO"), calling.get("allowedFunctionNames") or []
    if not isinstance(mode, str) or mode not in _MODES or not isinstance(names, list):
        raise refusal(where, target, f"its mode should be one of {', '.join(_MODES)}")
    allowed = tuple(text_in(name, where, target) for name in names)
    return Choice(where, _MODES[mode], allowed), mode == "VALIDATED"


def _thinking(value: Any, settings: Settings, target: str) -> None:
    where = "generationConfig.thinkingConfig"
    config = _fields(value, where, target)
    refuse_rest(config, ("thinkingBudget", "thinkingLevel", "includeThoughts"), where, target)
    if config.get("includeThoughts"):
        raise refusal(f"{where}.includeThoughts", target)
    level, budget = config.get("thinkingLevel"), _number(config.get("thinkingBudget"))
    settings.put("reasoning_effort", level.lower() if isinstance(level, str) else level, f"{where}.thinkingLevel")
    if budget == 0:
        settings.put("reasoning_effort", "none", f"{where}.thinkingBudget")
    elif budget != -1:  # -1 leaves it to the model, as all do that are told nothing
        settings.put("thinking_budget", budget, f"{where}.thinkingBudget")


def _form(config: Mapping[str, Any], target: str) -> Form | None:
    mime, where = config.get("responseMimeType"), "generationConfig.responseMimeType"
    if mime not in (None, "text/plain", "application/json"):
        raise refusal(where, target)
    if config.get("responseJsonSchema") is not None:
        where = "generationConfig.responseJsonSchema"
        return Form(where, mapping(config["responseJsonSchema"], where, target))
    if config.get("responseSchema") is not None:
        where = "generationConfig.responseSchema"
        return Form(where, _schema(config["responseSchema"], where, target))
    return Form(where) if mime == "application/json" else None


def _schema(value: Any, where: str, target: str) -> dict[str, Any]:
    """A JSON schema from Gemini's own form of one, whose types are written large. Raises Untranslatable."""
    fields = _fields(value, where, target)
    kind = fields.pop("type", None)
    nullable = fields.pop("nullable", None)
    schema: dict[str, Any] = {}
    if kind is not None:
        if not isinstance(kind, str) or kind.upper() not in _TYPES:
            raise refusal(f"{where}.type", target, f"{kind!r:.40} is none of {', '.join(sorted(_TYPES))}")
        schema["type"] = [kind.lower(), "null"] if nullable is True else kind.lower()
    elif nullable:
        raise refusal(f"{where}.nullable", target, "it stands without a type")
    for name, inner in fields.items():
        spot = f"{where}.{name}"
        if name == "properties":
            properties = mapping(inner, spot, target)
            schema[name] = {key: _schema(one, f"{spot}.{key}", target) for key, one in properties.items()}
        elif name == "items":
            schema[name] = _schema(inner, spot, target)
        elif name == "anyOf":
            schema[name] = [_schema(one, at, target) for at, one in listed(inner, spot, target)]
        elif name in _KEPT:
            schema[name] = _number(inner) if name in _COUNTS else inner
        elif inner is not None:
            raise refusal(spot, target)
    return schema
