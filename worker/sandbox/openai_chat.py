"""What the sandbox's OpenAI accepts as a chat completion, and how it words a refusal.

It writes no replies and knows no limits.
"""

import math
import re
from typing import Any

import orjson

from worker.sandbox.dialect import Answer, Chat, Refusal, chat, names, stand_in

INVALID = "invalid_request_error"
_FIELDS = names(
    "model messages audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier "
    "stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_PARTS = ("text", "image_url", "input_audio", "file", "refusal")
_REASONING_MODEL = re.compile(r"(o\d|gpt-[5-9])")
_KINDS = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
    dict: "an object",
}


def error(status: int, message: str, kind: str = INVALID, param: str | None = None, code: str | None = None) -> Answer:
    """An error answer in OpenAI's form."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Answer(status, orjson.dumps(body))


def _bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    return Refusal(error(400, message, INVALID, param, code))


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), "an object")


def _mistyped(name: str, wanted: str, value: object) -> Refusal:
    message = f"Invalid type for '{name}': expected {wanted}, but got {_kind(value)} instead."
    return _bad(message, name, "invalid_type")


def _positive(body: dict[str, Any], name: str, most: float = math.inf) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise _mistyped(name, "an integer", value)
    if value < 1:
        message = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        raise _bad(message, name, "integer_below_min_value")
    if value > most:
        message = f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        raise _bad(message, name, "integer_above_max_value")
    return value


def _within(body: dict[str, Any], name: str, low: float, high: float) -> None:
    value = body.get(name)
    if value is None:
        return
    if type(value) not in (int, float):
        raise _mistyped(name, "a decimal", value)
    if not low <= value <= high:
        side, sign, bound, code = ("below minimum", ">=", low, "below_min") if value < low else (
            "above maximum", "<=", high, "above_max"
        )  # fmt: skip
        message = f"Invalid '{name}': decimal {side} value. Expected a value {sign} {bound}, but got {value} instead."
        raise _bad(message, name, f"decimal_{code}_value")


def _content(content: object, where: str, empty_allowed: bool) -> str:
    if type(content) is str:
        return content
    if content is None and empty_allowed:
        return ""
    if type(content) is not list:
        raise _mistyped(f"{where}.content", "one of a string or array of objects", content)
    texts = []
    for at, part in enumerate(content):
        spot = f"{where}.content[{at}]"
        if type(part) is not dict:
            raise _mistyped(spot, "an object", part)
        kind = part.get("type")
        if kind not in _PARTS:
            wanted = ", ".join(f"'{name}'" for name in _PARTS)
            raise _bad(f"Invalid value: '{kind}'. Supported values are: {wanted}.", f"{spot}.type", "invalid_value")
        if kind != "text":
            texts.append(stand_in(part))
        elif type(part.get("text")) is str:
            texts.append(part["text"])
        else:
            raise _mistyped(f"{spot}.text", "a string", part.get("text"))
    return "\n".join(texts)


def _message(message: object, at: int) -> str:
    where = f"messages[{at}]"
    if type(message) is not dict:
        raise _mistyped(where, "an object", message)
    if "role" not in message:
        raise _bad(f"Missing required parameter: '{where}.role'.", f"{where}.role", "missing_required_parameter")
    role = message["role"]
    if role not in _ROLES:
        wanted = "'system', 'assistant', 'user', 'function', 'tool', and 'developer'"
        raise _bad(f"Invalid value: '{role}'. Supported values are: {wanted}.", f"{where}.role", "invalid_value")
    calls = message.get("tool_calls")
    if role == "tool" and type(message.get("tool_call_id")) is not str:
        spot = f"{where}.tool_call_id"
        raise _bad(f"Missing required parameter: '{spot}'.", spot, "missing_required_parameter")
    text = _content(message.get("content"), where, role == "assistant" and bool(calls or message.get("function_call")))
    return f"{text}{stand_in({'tool_calls': calls})}" if calls else text


def read_chat(raw: bytes, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse. `strict_models`: so does a model's own rule."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if type(body) is not dict:
        raise _bad("We could not parse the JSON body of your request. The OpenAI API expects a JSON payload.")
    for name in body:
        if name not in _FIELDS:
            raise _bad(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    model, messages = body.get("model"), body.get("messages")
    if model is None or model == "":
        raise _bad("you must provide a model parameter")
    if type(model) is not str:
        raise _mistyped("model", "a string", model)
    if messages is None:
        raise _bad("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if type(messages) is not list:
        raise _mistyped("messages", "an array of objects", messages)
    if not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."  # noqa: E501
        )
        raise _bad(message, "messages", "empty_array")
    texts = [_message(message, at) for at, message in enumerate(messages)]
    legacy, modern = _positive(body, "max_tokens"), _positive(body, "max_completion_tokens")
    if legacy is not None and strict_models and _REASONING_MODEL.match(model):
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."  # noqa: E501
        )
        raise _bad(message, "max_tokens", "unsupported_parameter")
    _within(body, "temperature", 0, 2)
    _within(body, "top_p", 0, 1)
    stream, options = body.get("stream"), body.get("stream_options")
    if stream is not None and type(stream) is not bool:
        raise _mistyped("stream", "a boolean", stream)
    if options is not None and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise _bad(message, "stream_options")
    if options is not None and type(options) is not dict:
        raise _mistyped("stream_options", "an object", options)
    return chat(
        model,
        texts,
        legacy if modern is None else modern,
        stream=bool(stream),
        copies=_positive(body, "n", 128) or 1,
        stream_usage=bool(options and options.get("include_usage")),
    )
