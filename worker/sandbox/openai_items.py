"""What the sandbox's `/responses` accepts as items of its input, as tools, the choice of them, and as the form of an answer.

It writes no replies; what it finds out about the answer's shape, `samples` fills.
"""

from typing import Any

from worker.sandbox.dialect import names, stand_in
from worker.sandbox.openai_checks import bad, missing, mistyped, one_of, wrong_value
from worker.sandbox.openai_tools import closed, named, table
from worker.sandbox.samples import Shape

_ROLES = ("user", "assistant", "system", "developer")
_PARTS = ("input_text", "input_image", "input_file", "input_audio", "output_text", "refusal")
_DETAILS = ("auto", "low", "high", "original")
_FUNCTION = names("type name description parameters strict defer_loading allowed_callers output_schema")
_HOSTED = (
    "file_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "computer",
    "computer_use_preview",
    "mcp",
    "code_interpreter",
    "programmatic_tool_calling",
    "image_generation",
    "local_shell",
    "shell",
    "custom",
    "namespace",
    "tool_search",
    "apply_patch",
)
_FORMS = ("text", "json_object", "json_schema")


def texts_in(body: dict[str, Any]) -> list[str]:
    """The texts of a body's input, one for each item; raises Refusal for what the API would refuse."""
    asked = body.get("input")
    if asked is None:
        if not any(body.get(name) for name in ("prompt", "previous_response_id", "conversation")):
            message = "One of 'input', 'previous_response_id', 'prompt' or 'conversation' must be provided."
            raise bad(message, "input", "missing_required_parameter")
        return []
    if type(asked) is str:
        return [asked]
    if type(asked) is not list:
        raise mistyped("input", "one of a string or array of objects", asked)
    texts = [_item(item, f"input[{at}]") for at, item in enumerate(asked)]
    if not any(body.get(name) for name in ("previous_response_id", "conversation")):
        _check_calls(asked)
    return texts


def _item(item: object, where: str) -> str:
    if type(item) is not dict:
        raise mistyped(where, "an object", item)
    kind = item.get("type", "message")
    if kind in ("function_call", "function_call_output"):
        wanted = ("call_id", "name", "arguments") if kind == "function_call" else ("call_id",)
        for name in wanted:
            if type(item.get(name)) is not str:
                raise missing(f"{where}.{name}")
        if kind == "function_call_output" and type(item.get("output")) not in (str, list):
            raise missing(f"{where}.output")
    if kind != "message":
        return stand_in(item)
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise missing(f"{where}.role") if role is None else wrong_value(role, f"{where}.role", _ROLES)
    if type(content) is str:
        return content
    if type(content) is not list:
        raise mistyped(f"{where}.content", "one of a string or array of objects", content)
    return "\n".join([_part(part, f"{where}.content[{at}]", str(role)) for at, part in enumerate(content)])


def _part(part: object, spot: str, role: str) -> str:
    if type(part) is not dict:
        raise mistyped(spot, "an object", part)
    kind = part.get("type")
    own = tuple(name for name in _PARTS if name.startswith("input_") is (role != "assistant"))
    if kind not in own:
        raise wrong_value(kind, f"{spot}.type", own)
    if kind in ("input_text", "output_text"):
        if type(part.get("text")) is not str:
            raise missing(f"{spot}.text")
        return str(part["text"])
    if kind == "input_image":
        url = part.get("image_url")
        if type(url) is dict:  # as in chat
            raise mistyped(f"{spot}.image_url", "a string", url)
        if url is None and part.get("file_id") is None:
            raise missing(f"{spot}.image_url")
        if url is not None and not str(url).startswith(("https://", "http://", "data:image/")):
            message = f"Invalid '{spot}.image_url'. Expected a valid URL, but got a value with an invalid format."
            raise bad(message, f"{spot}.image_url", "invalid_value")
        one_of(part.get("detail"), f"{spot}.detail", _DETAILS)
    elif kind == "input_file" and not any(part.get(name) for name in ("file_id", "file_data", "file_url")):
        raise missing(f"{spot}.file_id")
    return stand_in(part)


def _check_calls(items: list[Any]) -> None:
    """Refuse calls without their outputs, and outputs without their calls."""
    waiting: list[str] = []
    for item in items:
        if item.get("type") == "function_call":
            waiting.append(item["call_id"])
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in waiting:
                message = f"No tool call found for function call output with call_id {item['call_id']}."
                raise bad(message, "input")
            waiting.remove(item["call_id"])
    if waiting:
        raise bad(f"No tool output found for function call {waiting[0]}.", "input")


def _tools(body: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schema of each function's arguments, by its name; of a hosted tool an empty one, by its type."""
    tools = body.get("tools")
    if tools is None:
        return {}
    if type(tools) is not list:
        raise mistyped("tools", "an array of objects", tools)
    found: dict[str, dict[str, Any]] = {}
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        kind = table(tool, where).get("type")
        if kind is None:
            raise missing(f"{where}.type")
        if kind != "function":
            one_of(kind, f"{where}.type", ("function", *_HOSTED))
            found[str(kind)] = {}
            continue
        name = named(tool.get("name"), f"{where}.name")
        for field in tool:
            if field not in _FUNCTION:
                raise bad(f"Unknown parameter: '{where}.{field}'.", f"{where}.{field}", "unknown_parameter")
        schema = tool.get("parameters")
        found[name] = {} if schema is None else table(schema, f"{where}.parameters")
        if schema is not None and schema.get("type") != "object":
            message = f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."  # noqa: E501
            raise bad(message, f"{where}.parameters", "invalid_function_parameters")
        if schema is not None and tool.get("strict") is True:
            closed(schema, f"function '{name}'", f"{where}.parameters")
    return found


def _chosen(body: dict[str, Any], tools: dict[str, dict[str, Any]]) -> Shape | None:
    """The call that the choice of tools forces, if it forces one of a function."""
    choice = body.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return None
    if not tools:
        raise bad("Tool choice is only allowed when 'tools' are specified.", "tool_choice")
    functions = [name for name in tools if name not in _HOSTED]
    if choice == "required":
        return Shape(tools[functions[0]], functions[0]) if functions else None
    if type(choice) is not dict:
        raise wrong_value(choice, "tool_choice", ("none", "auto", "required"))
    if choice.get("type") != "function":
        return None
    name = named(choice.get("name"), "tool_choice.name")
    if name not in tools:
        raise bad(f"Tool choice '{name}' not found in 'tools' parameter.", "tool_choice")
    return Shape(tools[name], name)


def _form(body: dict[str, Any], texts: list[str]) -> Shape | None:
    text = body.get("text")
    if text is None:
        return None
    form = table(text, "text").get("format")
    one_of(text.get("verbosity"), "text.verbosity", ("low", "medium", "high"))
    if form is None:
        return None
    kind = table(form, "text.format").get("type")
    if kind not in _FORMS:
        raise wrong_value(kind, "text.format.type", _FORMS)
    if kind == "text":
        return None
    if kind == "json_object":
        if not any("json" in one.lower() for one in texts):
            message = "Response input messages must contain the word 'json' in some form to use 'text.format' of type 'json_object'."  # noqa: E501
            raise bad(message, "input")
        return Shape({"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]})
    name, schema = named(form.get("name"), "text.format.name"), table(form.get("schema"), "text.format.schema")
    if form.get("strict") is True:
        closed(schema, f"response_format '{name}'", "text.format.schema")
    return Shape(schema)


def shape_of(body: dict[str, Any], texts: list[str]) -> Shape | None:
    """What the answer must be, after checking tools, their choice and the form of the answer."""
    forced = _chosen(body, _tools(body))
    form = _form(body, texts)
    return forced or form
