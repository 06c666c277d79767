"""What the sandbox's Gemini accepts as a generateContent body, and how it words a refusal.

It writes no replies and knows no limits.
"""

import math
import re
from dataclasses import replace
from typing import Any

import orjson

from worker.sandbox.deeds import Wants
from worker.sandbox.dialect import Chat, chat, names
from worker.sandbox.gemini_parts import check_calls, content_text, media_in
from worker.sandbox.gemini_words import bad, camel, message, mistyped, repeated
from worker.sandbox.samples import Shape

_FIELDS = names(
    "model contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent serviceTier labels "
    "store"
)
_GENERATION = names(
    "temperature topP topK maxOutputTokens stopSequences seed candidateCount responseMimeType responseSchema "
    "responseJsonSchema presencePenalty frequencyPenalty responseLogprobs logprobs thinkingConfig responseModalities "
    "speechConfig mediaResolution imageConfig enableEnhancedCivicAnswers responseFormat"
)
_TOOLS = names(
    "functionDeclarations googleSearch googleSearchRetrieval codeExecution urlContext computerUse fileSearch googleMaps "
    "mcpServers"
)
_FUNCTION = names("name description parameters parametersJsonSchema response responseJsonSchema behavior")
_TOOL_CONFIG = names("functionCallingConfig retrievalConfig includeServerSideToolInvocations")
_CALLING = names("mode allowedFunctionNames streamFunctionCallArguments")
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_THINKING = names("includeThoughts thinkingBudget thinkingLevel")
_LEVELS = ("THINKING_LEVEL_UNSPECIFIED", "MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")
_SCHEMA = names(
    "type format title description nullable enum items maxItems minItems properties required minProperties "
    "maxProperties minimum maximum minLength maxLength pattern example anyOf propertyOrdering default"
)
_TYPES = names("TYPE_UNSPECIFIED STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT NULL")
_CATEGORIES = names(
    "HARM_CATEGORY_HARASSMENT HARM_CATEGORY_HATE_SPEECH HARM_CATEGORY_SEXUALLY_EXPLICIT HARM_CATEGORY_DANGEROUS_CONTENT "
    "HARM_CATEGORY_CIVIC_INTEGRITY"
)
_THRESHOLDS = names(
    "HARM_BLOCK_THRESHOLD_UNSPECIFIED BLOCK_LOW_AND_ABOVE BLOCK_MEDIUM_AND_ABOVE BLOCK_ONLY_HIGH BLOCK_NONE OFF"
)
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", re.ASCII)
_BUDGETS_ONLY = re.compile(r"gemini-[12]\b", re.ASCII)
_ANYTHING = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
_MOST_STOPS = 5


def _count(config: dict[str, Any], name: str, most: float = math.inf) -> int | None:
    """A positive integer; proto-JSON takes it as a string as well."""
    value = config.get(name)
    if value is None:
        return None
    where = f"generation_config.{name}"
    if type(value) is str and value.lstrip("-").isascii() and value.lstrip("-").isdigit():
        value = int(value)
    if type(value) is not int:
        raise mistyped(value, where, "TYPE_INT32")
    if not 1 <= value <= most:
        raise bad(f"* GenerateContentRequest.{where}: must be in the range [1, {most}].\n")
    return value


def _within(config: dict[str, Any], name: str, high: float, low: float = 0.0) -> None:
    value = config.get(name)
    if value is None:
        return
    where = f"generation_config.{name}"
    if type(value) not in (int, float):
        raise mistyped(value, where, "TYPE_FLOAT")
    if not low <= value <= high:
        raise bad(f"* GenerateContentRequest.{where}: {name} must be in the range [{low}, {high}].\n")


def _tools_in(body: dict[str, Any], model: str) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """The schema of each function's arguments, by its name; and Google's own tools that are switched on."""
    found: dict[str, dict[str, Any]] = {}
    own: set[str] = set()
    for at, tool in enumerate(repeated(body.get("tools"), "tools")):
        where = f"tools[{at}]"
        fields = camel(message(tool, where), _TOOLS, where)
        if fields.get("googleSearchRetrieval") is not None and not model.startswith("gemini-1."):
            raise bad("google_search_retrieval is not supported. Please use google_search tool instead.")
        own |= {name for name, settings in fields.items() if settings is not None}
        declared = repeated(fields.get("functionDeclarations"), f"{where}.function_declarations")
        for number, one in enumerate(declared):
            spot = f"{where}.function_declarations[{number}]"
            function = camel(message(one, spot), _FUNCTION, spot)
            name = function.get("name")
            if type(name) is not str or not _NAME.fullmatch(name):
                rule = "Must start with a letter or an underscore. Must be alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:) or dashes (-), with a maximum length of 64."  # noqa: E501
                raise bad(f"* GenerateContentRequest.{spot}.name: Invalid function name. {rule}\n")
            if name in found:
                raise bad(f"Duplicate function declaration found: {name}")
            if function.get("parameters") is not None and function.get("parametersJsonSchema") is not None:
                raise bad(
                    f"* GenerateContentRequest.{spot}: only one of parameters and parameters_json_schema can be set.\n"
                )
            found[name] = _parameters(function, spot)
    return found, own


def _parameters(function: dict[str, Any], spot: str) -> dict[str, Any]:
    schema = function.get("parametersJsonSchema")
    if schema is not None:
        if message(schema, f"{spot}.parameters_json_schema").get("type") != "object":
            raise bad(f"* GenerateContentRequest.{spot}.parameters_json_schema: schema must be of type object.\n")
        return dict(schema)
    schema = function.get("parameters")
    if schema is None:
        return {}
    _own_schema(schema, f"{spot}.parameters")
    if str(message(schema, f"{spot}.parameters").get("type", "")).upper() == "OBJECT" and not schema.get("properties"):
        raise bad(f"* GenerateContentRequest.{spot}.parameters.properties: should be non-empty for OBJECT type\n")
    return dict(schema)


def _forced(body: dict[str, Any], functions: dict[str, dict[str, Any]]) -> Shape | None:
    """The call that is forced, if one is."""
    config = body.get("toolConfig")
    if config is None:
        return None
    calling = camel(message(config, "tool_config"), _TOOL_CONFIG, "tool_config").get("functionCallingConfig")
    if calling is None:
        return None
    where = "tool_config.function_calling_config"
    fields = camel(message(calling, where), _CALLING, where)
    mode, allowed = (
        fields.get("mode", "AUTO"),
        repeated(fields.get("allowedFunctionNames"), f"{where}.allowed_function_names"),
    )
    if mode not in _MODES:
        raise mistyped(
            mode, f"{where}.mode", "type.googleapis.com/google.ai.generativelanguage.FunctionCallingConfig.Mode"
        )
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise bad("Allowed function names should only be set when function calling mode is ANY or VALIDATED.")
    if unknown := [name for name in allowed if name not in functions]:
        raise bad(f"Allowed function name {unknown[0]!r} is not in function_declarations.")
    if not functions and mode in ("ANY", "VALIDATED"):
        raise bad("Function calling config is set without function_declarations.")
    if mode != "ANY":
        return None
    name = allowed[0] if allowed else next(iter(functions))
    return Shape(functions[name], name)


def _form(config: dict[str, Any]) -> Shape | None:
    mime = config.get("responseMimeType")
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    if config.get("responseJsonSchema") is not None and config.get("responseSchema") is not None:
        raise bad(
            "* GenerateContentRequest.generation_config: only one of response_schema and response_json_schema can be set.\n"
        )
    if mime not in (None, "text/plain", "application/json", "text/x.enum"):
        kinds = "`text/plain`, `application/json`, `application/xml`, `application/yaml` and `text/x.enum`"
        raise bad(f"* GenerateContentRequest.generation_config.response_mime_type: allowed mimetypes are {kinds}.\n")
    if schema is not None and mime in (None, "text/plain"):
        raise bad(
            "* GenerateContentRequest.generation_config.response_mime_type: Response schema is only supported with JSON.\n"
        )
    if schema is not None:
        message(schema, "generation_config.response_schema")
    if config.get("responseSchema") is not None:
        _own_schema(config["responseSchema"], "generation_config.response_schema")
    return Shape(schema or _ANYTHING) if mime == "application/json" else None


def _own_schema(schema: object, where: str) -> None:
    """Refuse words that Google's own form of a schema doesn't know; JSON schema has a field of its own."""
    if type(schema) is not dict:
        raise mistyped(schema, where, "type.googleapis.com/google.ai.generativelanguage.Schema")
    known = camel(schema, _SCHEMA, where)
    kind = known.get("type")
    if kind is not None and (type(kind) is not str or kind.upper() not in _TYPES):
        raise mistyped(kind, f"{where}.type", "type.googleapis.com/google.ai.generativelanguage.Type")
    properties = known.get("properties")
    for name, one in (properties if type(properties) is dict else {}).items():
        _own_schema(one, f"{where}.properties[{name}]")
    if known.get("items") is not None:
        _own_schema(known["items"], f"{where}.items")
    for at, one in enumerate(repeated(known.get("anyOf"), f"{where}.any_of")):
        _own_schema(one, f"{where}.any_of[{at}]")


def _safety(body: dict[str, Any]) -> None:
    seen = set()
    for at, one in enumerate(repeated(body.get("safetySettings"), "safety_settings")):
        where = f"safety_settings[{at}]"
        fields = camel(message(one, where), names("category threshold method"), where)
        for name, allowed in (("category", _CATEGORIES), ("threshold", _THRESHOLDS)):
            if fields.get(name) not in allowed:
                kind = f"type.googleapis.com/google.ai.generativelanguage.SafetySetting.{name.capitalize()}"
                raise mistyped(fields.get(name), f"{where}.{name}", kind)
        if fields["category"] in seen:
            raise bad(f"* GenerateContentRequest.{where}: the category {fields['category']} is set twice.\n")
        seen.add(fields["category"])


def _thinking(config: dict[str, Any], model: str) -> Wants:
    """Whether thoughts are asked for, and to be shown."""
    if config.get("thinkingConfig") is None:
        return Wants()
    where = "generation_config.thinking_config"
    fields = camel(message(config["thinkingConfig"], where), _THINKING, where)
    level, budget = fields.get("thinkingLevel"), fields.get("thinkingBudget")
    if level is not None and budget is not None:
        raise bad("You can only set only one of thinking budget and thinking level.")
    if level is not None and (type(level) is not str or level.upper() not in _LEVELS):
        raise mistyped(
            level, f"{where}.thinking_level", "type.googleapis.com/google.ai.generativelanguage.ThinkingLevel"
        )
    if level is not None and _BUDGETS_ONLY.match(model):
        raise bad("Thinking level is not supported for this model.")
    if budget is not None and type(budget) is not int:
        raise mistyped(budget, f"{where}.thinking_budget", "TYPE_INT32")
    shown = fields.get("includeThoughts")
    if shown is not None and type(shown) is not bool:
        raise mistyped(shown, f"{where}.include_thoughts", "TYPE_BOOL")
    return Wants(thinks=budget != 0, shown=shown is True)


def _settings(config: dict[str, Any]) -> None:
    _within(config, "temperature", 2.0)
    _within(config, "topP", 1.0)
    _within(config, "presencePenalty", 2.0, -2.0)
    _within(config, "frequencyPenalty", 2.0, -2.0)
    _count(config, "topK")
    if config.get("seed") is not None and type(config["seed"]) not in (int, str):
        raise mistyped(config["seed"], "generation_config.seed", "TYPE_INT32")
    stop = config.get("stopSequences")
    if stop is not None and (type(stop) is not list or any(type(one) is not str for one in stop)):
        raise mistyped(stop, "generation_config.stop_sequences", "TYPE_STRING")
    if stop and len(stop) > _MOST_STOPS:
        raise bad(f"* GenerateContentRequest.generation_config.stop_sequences: at most {_MOST_STOPS} are allowed.\n")
    if config.get("responseLogprobs") is not None and type(config["responseLogprobs"]) is not bool:
        raise mistyped(config["responseLogprobs"], "generation_config.response_logprobs", "TYPE_BOOL")
    if config.get("logprobs") is not None and not config.get("responseLogprobs"):
        raise bad("Logprobs can only be set when response_logprobs is true.")


def read_chat(model: str, raw: bytes, stream: bool, framed: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse."""
    try:
        loaded = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad(f"Invalid JSON payload received. {error.msg}") from None
    if type(loaded) is not dict:
        raise bad('Invalid JSON payload received. Unknown name "": Root element must be a message.')
    body = camel(loaded, _FIELDS, "")
    contents, system = body.get("contents"), body.get("systemInstruction")
    if not contents:
        raise bad("* GenerateContentRequest.contents: contents is not specified\n")
    texts = [] if system is None else [content_text(system, "system_instruction", True)[0]]
    turns = []
    for at, content in enumerate(repeated(contents, "contents")):
        text, role, parts = content_text(content, f"contents[{at}]")
        if role not in (None, "user", "model", "function"):
            raise bad("Please use a valid role: user, model.")
        texts.append(text)
        turns.append((role, parts))
    check_calls(turns, model)
    given = body.get("generationConfig")
    where = "generation_config"
    config = {} if given is None else camel(message(given, where), _GENERATION, where)
    _settings(config)
    wants = _thinking(config, model)
    _safety(body)
    functions, own = _tools_in(body, model)
    forced, form = _forced(body, functions), _form(config)
    if body.get("serviceTier") not in (None, "flex", "standard", "priority"):
        raise mistyped(
            body["serviceTier"], "service_tier", "type.googleapis.com/google.ai.generativelanguage.ServiceTier"
        )
    return chat(
        model,
        texts,
        _count(config, "maxOutputTokens"),
        stream=stream,
        copies=_count(config, "candidateCount", 8) or 1,
        framed=framed,
        shape=forced or form,
        wants=replace(
            wants,
            searches="googleSearch" in own,
            runs_code="codeExecution" in own,
            once=bool(_BUDGETS_ONLY.match(model)),
        ),
        media=media_in(part for _, parts in turns for part in parts),
    )
