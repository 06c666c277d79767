"""What all of the sandbox's OpenAI endpoints check alike, and the form of a refusal.

It knows no endpoint's own fields.
"""

import math
import re
from collections.abc import Collection
from typing import Any

import orjson

from worker.sandbox.deeds import Wants
from worker.sandbox.dialect import Answer, Refusal

INVALID = "invalid_request_error"
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
VERBOSITIES = ("low", "medium", "high")
REASONING_MODEL = re.compile(r"(ft:)?(o\d|gpt-[5-9])")
"""Models that take no `max_tokens`."""
_WITHOUT_SAMPLING = re.compile(r"(ft:)?(o\d|gpt-5(-|$)|gpt-[6-9])")
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_LOGPROBS = ("logprobs", "top_logprobs", "logit_bias")
_CHAT_MODEL = re.compile(r"(ft:)?(o\d|gpt-[4-9]|gpt-3\.5-turbo(?!-instruct))")
_COMPLETION_MODEL = re.compile(r"gpt-3\.5-turbo-instruct|davinci-002|babbage-002")
_EMBEDDING_MODEL = re.compile(r"text-embedding-")
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


def served_here(model: str, endpoint: str) -> None:
    """Refuse a model of another endpoint: `chat`, `completions` or `embeddings`."""
    if endpoint == "completions" and _CHAT_MODEL.match(model):
        message = "This is a chat model and not supported in the v1/completions endpoint. Did you mean to use v1/chat/completions?"  # noqa: E501
    elif endpoint == "chat" and (_COMPLETION_MODEL.match(model) or _EMBEDDING_MODEL.match(model)):
        message = "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/completions?"  # noqa: E501
    elif endpoint == "embeddings" and (_CHAT_MODEL.match(model) or _COMPLETION_MODEL.match(model)):
        raise Refusal(error(403, "You are not allowed to generate embeddings from this model", INVALID))
    else:
        return
    raise Refusal(error(404, message, INVALID, "model"))


def sampled(body: dict[str, Any], model: str, effort: object) -> None:
    """Refuse sampling where a model reasons: all values but the default 1, and probabilities."""
    if not _WITHOUT_SAMPLING.match(model) or effort == "none":
        return
    for name in (*_SAMPLING, *_LOGPROBS):
        value = body.get(name)
        usual = (1,) if name in ("temperature", "top_p") else (0, False)
        if value is None or (type(value) in (int, float, bool) and value in usual):
            continue
        if name == "temperature":
            message = f"Unsupported value: 'temperature' does not support {value} with this model. Only the default (1) value is supported."  # noqa: E501
            raise bad(message, name, "unsupported_value")
        raise bad(f"Unsupported parameter: '{name}' is not supported with this model.", name, "unsupported_parameter")


def wants_in(model: str, effort: object, *, shown: bool = False, tools: Collection[str] = ()) -> Wants:
    """What a call switches on: reasoning by its effort, where the model reasons, and hosted tools."""
    thinks = effort != "none" if effort is not None and REASONING_MODEL.match(model) else None
    searches = any(tool.startswith("web_search") for tool in tools)
    runs_code = "code_interpreter" in tools
    return Wants(thinks=thinks, shown=shown, searches=searches, runs_code=runs_code, rents=runs_code)


def metadata_in(body: dict[str, Any]) -> None:
    """Refuse metadata that isn't up to 16 short texts."""
    pairs = body.get("metadata")
    if pairs is None:
        return
    if type(pairs) is not dict:
        raise mistyped("metadata", "an object", pairs)
    if len(pairs) > 16:
        message = f"Invalid 'metadata': object has too many properties. Expected an object with at most 16 properties, but got an object with {len(pairs)} properties instead."  # noqa: E501
        raise bad(message, "metadata", "object_above_max_properties")
    for name, value in pairs.items():
        if type(value) is not str:
            raise mistyped(f"metadata.{name}", "a string", value)
        for text, spot, most in ((name, "metadata", 64), (value, f"metadata.{name}", 512)):
            if len(text) > most:
                message = f"Invalid '{spot}': string too long. Expected a string with maximum length {most}, but got a string with length {len(text)} instead."  # noqa: E501
                raise bad(message, spot, "string_above_max_length")


def one_of(value: object, spot: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is given and none of the allowed ones."""
    if value is not None and value not in allowed:
        raise wrong_value(value, spot, allowed)


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


def tier_in(body: dict[str, Any], allowed: tuple[str, ...] = TIERS) -> str:
    """The tier that serves the call: what `auto` and no wish come to is `default`."""
    tier = body.get("service_tier")
    one_of(tier, "service_tier", allowed)
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
