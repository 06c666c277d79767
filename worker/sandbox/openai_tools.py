"""What the sandbox's OpenAI accepts as tools, the choice of them, their calls and results, and as the form of an answer.

It writes no replies; what it finds out about the answer's shape, `samples` fills.
"""

import re
from typing import Any

from worker.sandbox.openai_checks import bad, missing, mistyped, wrong_value
from worker.sandbox.samples import Shape
from worker.sandbox.schemas import open_object, optional_property

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}", re.ASCII)
_FUNCTION = ("name", "description", "parameters", "strict")
_FORMS = ("json_object", "json_schema", "text")


def table(value: object, where: str) -> dict[str, Any]:
    """The value, which must be an object."""
    if value is None:
        raise missing(where)
    if type(value) is not dict:
        raise mistyped(where, "an object", value)
    return value


def named(value: object, where: str) -> str:
    """The name of a tool or a schema."""
    if value is None:
        raise missing(where)
    if type(value) is not str:
        raise mistyped(where, "a string", value)
    if not _NAME.fullmatch(value):
        message = f"Invalid '{where}': string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."  # noqa: E501
        raise bad(message, where, "invalid_value")
    return value


def closed(schema: dict[str, Any], what: str, where: str) -> None:
    """Refuse a schema that `strict` can't hold anything to."""
    if (path := open_object(schema)) is not None:
        message = f"Invalid schema for {what}: In context={path}, 'additionalProperties' is required to be supplied and to be false."  # noqa: E501
        raise bad(message, where, "invalid_function_parameters" if "function" in what else None)
    if (found := optional_property(schema)) is not None:
        message = f"Invalid schema for {what}: In context={found[0]}, 'required' is required to be supplied and to be an array including every key in properties. Missing '{found[1]}'."  # noqa: E501
        raise bad(message, where, "invalid_function_parameters" if "function" in what else None)


def _tools(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each function's arguments, by its name."""
    tools = body.get("tools")
    if tools is None:
        return {}
    if type(tools) is not list:
        raise mistyped("tools", "an array of objects", tools)
    if not tools:
        message = (
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        raise bad(message, "tools", "empty_array")
    found: dict[str, dict[str, Any]] = {}
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        kind = table(tool, where).get("type")
        if kind is None:
            raise missing(f"{where}.type")
        if kind not in ("function", "custom"):
            raise wrong_value(kind, f"{where}.type", ("function", "custom"))
        inner = table(tool.get(kind), f"{where}.{kind}")
        name = named(inner.get("name"), f"{where}.{kind}.name")
        found[name] = {}
        if kind == "custom":
            continue
        for field in inner:
            if field not in _FUNCTION:
                raise bad(f"Unknown parameter: '{where}.function.{field}'.", f"{where}.function", "unknown_parameter")
        schema = inner.get("parameters")
        if schema is not None:
            spot = f"{where}.function.parameters"
            found[name] = table(schema, spot)
            if schema.get("type") != "object":
                message = f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."  # noqa: E501
                raise bad(message, spot, "invalid_function_parameters")
            if inner.get("strict") is True:
                closed(schema, f"function '{name}'", spot)
    return found


def _chosen(body: dict[str, Any], tools: dict[str, dict[str, Any]]) -> Shape | None:
    """The call that the choice of tools forces, if it does."""
    for field in ("tool_choice", "parallel_tool_calls"):
        if body.get(field) is not None and not tools:
            raise bad(f"'{field}' is only allowed when 'tools' are specified.", field)
    choice = body.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None
    first = next(iter(tools))
    if choice == "required":
        return Shape(tools[first], first)
    if type(choice) is not dict:
        raise wrong_value(choice, "tool_choice", ("none", "auto", "required"))
    if choice.get("type") == "allowed_tools":
        allowed = table(choice.get("allowed_tools"), "tool_choice.allowed_tools")
        names = [_named_choice(tool, tools) for tool in allowed.get("tools") or []]
        if allowed.get("mode") not in ("auto", "required"):
            raise wrong_value(allowed.get("mode"), "tool_choice.allowed_tools.mode", ("auto", "required"))
        return Shape(tools[names[0]], names[0]) if names and allowed["mode"] == "required" else None
    name = _named_choice(choice, tools)
    return Shape(tools[name], name)


def _named_choice(choice: object, tools: dict[str, dict[str, Any]]) -> str:
    kind = table(choice, "tool_choice").get("type")
    if kind not in ("function", "custom"):
        raise wrong_value(kind, "tool_choice.type", ("function", "custom", "allowed_tools"))
    name = named(table(choice.get(kind), f"tool_choice.{kind}").get("name"), f"tool_choice.{kind}.name")  # type: ignore[attr-defined]
    if name not in tools:
        raise bad(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
    return name


def _form(body: dict[str, Any], texts: list[str]) -> Shape | None:
    form = body.get("response_format")
    if form is None:
        return None
    kind = table(form, "response_format").get("type")
    if kind is None:
        raise missing("response_format.type")
    if kind not in _FORMS:
        raise wrong_value(kind, "response_format.type", _FORMS)
    if kind == "text":
        return None
    if kind == "json_object":
        if not any("json" in text.lower() for text in texts):
            message = (
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."  # noqa: E501
            )
            raise bad(message, "messages")
        return Shape({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]})
    inner = table(form.get("json_schema"), "response_format.json_schema")
    name = named(inner.get("name"), "response_format.json_schema.name")
    schema = table(inner.get("schema", {}), "response_format.json_schema.schema")
    if inner.get("strict") is True:
        closed(schema, f"response_format '{name}'", "response_format")
    return Shape(schema)


def shape_of(body: dict[str, Any], texts: list[str]) -> Shape | None:
    """What the answer must be, after checking tools, their choice and the form of the answer."""
    forced = _chosen(body, _tools(body))
    form = _form(body, texts)
    return forced or form


def check_calls(messages: list[Any]) -> None:
    """Refuse calls of tools without their results, and results without their calls. The messages are objects with a role."""
    open_calls: list[str] = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise bad(f"Invalid parameter: {text}", f"{where}.role")
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise _unanswered(open_calls, where)
        if message.get("tool_calls") is not None:
            open_calls = _calls(message["tool_calls"], f"{where}.tool_calls")
    if open_calls:
        raise _unanswered(open_calls, f"messages[{len(messages) - 1}]")


def _unanswered(ids: list[str], where: str) -> Exception:
    message = f"An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(ids)}"  # noqa: E501
    return bad(message, f"{where}.role")


def _calls(calls: object, where: str) -> list[str]:
    if type(calls) is not list:
        raise mistyped(where, "an array of objects", calls)
    if not calls:
        message = (
            f"Invalid '{where}': empty array. Expected an array with minimum length 1, but got an empty array instead."  # noqa: E501
        )
        raise bad(message, where, "empty_array")
    ids = []
    for at, call in enumerate(calls):
        spot = f"{where}[{at}]"
        kind = table(call, spot).get("type")
        for field in ("id", "type"):
            if type(call.get(field)) is not str:
                raise missing(f"{spot}.{field}")
        if len(call["id"]) > 40:
            message = f"Invalid '{spot}.id': string too long. Expected a string with maximum length 40, but got a string with length {len(call['id'])} instead."  # noqa: E501
            raise bad(message, f"{spot}.id", "string_above_max_length")
        if kind not in ("function", "custom"):
            raise wrong_value(kind, f"{spot}.type", ("function", "custom"))
        inner = table(call.get(kind), f"{spot}.{kind}")
        named(inner.get("name"), f"{spot}.{kind}.name")
        said = "arguments" if kind == "function" else "input"
        if type(inner.get(said)) is not str:
            raise missing(f"{spot}.{kind}.{said}")
        ids.append(call["id"])
    return ids
