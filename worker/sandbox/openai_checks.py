"""What all of the sandbox's OpenAI endpoints check alike, and the form of a refusal.

It knows no endpoint's own fields.
"""

import math
from typing import Any

import orjson

from worker.sandbox.dialect import Answer, Refusal

INVALID = "invalid_request_error"
TIERS = ("auto", "default", "flex", "scale", "priority", "fast")
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


def bad(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A 400 to raise."""
    return Refusal(error(400, message, INVALID, param, code))


def _kind(value: object) -> str:
    return "null" if value is None else _KINDS.get(type(value), "an object")


def mistyped(name: str, wanted: str, value: object) -> Refusal:
    """A 400 for a value of a wrong type."""
    message = f"Invalid type for '{name}': expected {wanted}, but got {_kind(value)} instead."
    return bad(message, name, "invalid_type")


def positive(body: dict[str, Any], name: str, most: float = math.inf, least: int = 1) -> int | None:
    """A whole number between `least` and `most`, None if it isn't given."""
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not int:
        raise mistyped(name, "an integer", value)
    if value < least:
        message = (
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        raise bad(message, name, "integer_below_min_value")
    if value > most:
        message = f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead."
        raise bad(message, name, "integer_above_max_value")
    return value


def within(body: dict[str, Any], name: str, low: float, high: float) -> None:
    """Refuse a number out of its range."""
    value = body.get(name)
    if value is None:
        return
    if type(value) not in (int, float):
        raise mistyped(name, "a decimal", value)
    if not low <= value <= high:
        side, sign, bound, code = ("below minimum", ">=", low, "below_min") if value < low else (
            "above maximum", "<=", high, "above_max"
        )  # fmt: skip
        message = f"Invalid '{name}': decimal {side} value. Expected a value {sign} {bound}, but got {value} instead."
        raise bad(message, name, f"decimal_{code}_value")


def missing(name: str) -> Refusal:
    """A 400 for a field that isn't there."""
    return bad(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def wrong_value(value: object, spot: str, allowed: tuple[str, ...]) -> Refusal:
    """A 400 for a value that is none of the allowed ones."""
    wanted = ", ".join(f"'{name}'" for name in allowed)
    return bad(f"Invalid value: '{value}'. Supported values are: {wanted}.", spot, "invalid_value")


def load(raw: bytes, known: frozenset[str]) -> dict[str, Any]:
    """A body whose fields are all known."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if type(body) is not dict:
        raise bad("We could not parse the JSON body of your request. The OpenAI API expects a JSON payload.")
    for name in body:
        if name not in known:
            raise bad(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    return body


def model_in(body: dict[str, Any]) -> str:
    """The model, which must be there."""
    model = body.get("model")
    if model is None or model == "":
        raise bad("you must provide a model parameter")
    if type(model) is not str:
        raise mistyped("model", "a string", model)
    return model


def streamed(body: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether a stream is asked for, and with which options."""
    stream, options = body.get("stream"), body.get("stream_options")
    if stream is not None and type(stream) is not bool:
        raise mistyped("stream", "a boolean", stream)
    if options is not None and not stream:
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise bad(message, "stream_options")
    if options is not None and type(options) is not dict:
        raise mistyped("stream_options", "an object", options)
    return bool(stream), options or {}


def tier_in(body: dict[str, Any]) -> str:
    """The tier that serves the call: what `auto` and no wish come to is `default`."""
    tier = body.get("service_tier")
    if tier is not None and tier not in TIERS:
        raise wrong_value(tier, "service_tier", TIERS)
    return "default" if tier in (None, "auto") else str(tier)


def texts_or_tokens(value: object, name: str) -> list[str]:
    """The texts in a field that takes text or token numbers, one or many. A token stands as four characters."""
    if type(value) is str:
        return [value]
    if type(value) is not list:
        raise mistyped(name, "one of a string or array", value)
    if not value:
        message = (
            f"Invalid '{name}': empty array. Expected an array with minimum length 1, but got an empty array instead."
        )
        raise bad(message, name, "empty_array")
    if all(type(one) is int for one in value):
        return [_tokens(value)]
    texts = []
    for at, one in enumerate(value):
        if type(one) is str:
            texts.append(one)
        elif type(one) is list and one and all(type(token) is int for token in one):
            texts.append(_tokens(one))
        else:
            raise mistyped(f"{name}[{at}]", "one of a string or array of integers", one)
    return texts


def _tokens(numbers: list[int]) -> str:
    return "".join(f"{number & 0xFFFF:04x}" for number in numbers)
