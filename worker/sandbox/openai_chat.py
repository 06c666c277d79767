"""What the sandbox's OpenAI accepts as a chat completion, and how it words a refusal.

It writes no replies and knows no limits.
"""

import binascii
import re
from dataclasses import replace
from typing import Any

from worker.sandbox.dialect import Chat, chat, names, stand_in
from worker.sandbox.openai_checks import (
    EFFORTS,
    REASONING_MODEL,
    VERBOSITIES,
    bad,
    load,
    metadata_in,
    missing,
    mistyped,
    model_in,
    one_of,
    positive,
    sampled,
    served_here,
    streamed,
    tier_in,
    wants_in,
    within,
    wrong_value,
)
from worker.sandbox.openai_tools import check_calls, shape_of

_FIELDS = names(
    "model messages audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier "
    "stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_PARTS = {"user": ("text", "image_url", "input_audio", "file"), "assistant": ("text", "refusal")}
_TEXT = ("text",)
_IMAGE = re.compile(r"https?://[^\s/]+|data:image/[\w.+-]+;base64,", re.ASCII)
_FILE = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,", re.ASCII)
_SEARCHING = re.compile(r"-search-(preview|api)")


def _base64(data: str) -> bool:
    try:
        return bool(binascii.a2b_base64(data.encode(), strict_mode=True))
    except ValueError:
        return False


def _inline(url: object, pattern: re.Pattern[str], where: str, wanted: str) -> None:
    """Refuse what is neither a URL that the pattern allows nor whole base64 data."""
    if type(url) is not str:
        raise missing(where) if url is None else mistyped(where, "a string", url)
    found = pattern.match(url)
    if found is None or (url.startswith("data:") and not _base64(url[found.end() :])):
        raise bad(f"Invalid '{where}'. Expected {wanted}.", where, "invalid_value")


def _media(part: dict[str, Any], where: str) -> None:
    """Refuse an image, a sound or a file without its data."""
    kind = part["type"]
    inner = part.get(kind)
    if inner is None:
        raise missing(f"{where}.{kind}")
    if type(inner) is not dict:
        raise mistyped(f"{where}.{kind}", "an object", inner)
    if kind == "image_url":
        wanted = "a valid URL or a base64-encoded data URL with an image MIME type"
        _inline(inner.get("url"), _IMAGE, f"{where}.image_url.url", wanted)
        if inner.get("detail") not in (None, "auto", "low", "high", "original"):
            raise wrong_value(inner["detail"], f"{where}.image_url.detail", ("auto", "low", "high", "original"))
    elif kind == "input_audio":
        if inner.get("format") not in ("wav", "mp3"):
            raise wrong_value(inner.get("format"), f"{where}.input_audio.format", ("wav", "mp3"))
        if type(inner.get("data")) is not str or not _base64(inner["data"]):
            raise bad(f"Invalid '{where}.input_audio.data'. Expected base64 data.", f"{where}.input_audio.data")
    elif inner.get("file_id") is None:
        if inner.get("filename") is None:
            raise missing(f"{where}.file.filename")
        _inline(inner.get("file_data"), _FILE, f"{where}.file.file_data", "a base64-encoded data URL")


def _content(content: object, where: str, empty_allowed: bool, allowed: tuple[str, ...]) -> str:
    if type(content) is str:
        return content
    if content is None and empty_allowed:
        return ""
    if type(content) is not list:
        raise mistyped(f"{where}.content", "one of a string or array of objects", content)
    texts = []
    for at, part in enumerate(content):
        spot = f"{where}.content[{at}]"
        if type(part) is not dict:
            raise mistyped(spot, "an object", part)
        kind = part.get("type")
        if kind not in allowed:
            raise wrong_value(kind, f"{spot}.type", allowed)
        if kind != "text":
            if kind != "refusal":
                _media(part, spot)
            texts.append(stand_in(part))
        elif type(part.get("text")) is str:
            texts.append(part["text"])
        else:
            raise mistyped(f"{spot}.text", "a string", part.get("text"))
    return "\n".join(texts)


def _message(message: object, at: int) -> str:
    where = f"messages[{at}]"
    if type(message) is not dict:
        raise mistyped(where, "an object", message)
    if "role" not in message:
        raise missing(f"{where}.role")
    role = message["role"]
    if role not in _ROLES:
        wanted = "'system', 'assistant', 'user', 'function', 'tool', and 'developer'"
        raise bad(f"Invalid value: '{role}'. Supported values are: {wanted}.", f"{where}.role", "invalid_value")
    calls = message.get("tool_calls")
    if role == "tool" and type(message.get("tool_call_id")) is not str:
        raise missing(f"{where}.tool_call_id")
    empty_allowed = role == "assistant" and bool(calls or message.get("function_call"))
    text = _content(message.get("content"), where, empty_allowed, _PARTS.get(role, _TEXT))
    return f"{text}{stand_in({'tool_calls': calls})}" if calls else text


def read_chat(raw: bytes, strict_models: bool) -> Chat:
    """The call in a body; raises Refusal for what the API would refuse. `strict_models`: so does a model's own rule."""
    body = load(raw, _FIELDS)
    model, messages = model_in(body), body.get("messages")
    if messages is None:
        raise missing("messages")
    if type(messages) is not list:
        raise mistyped("messages", "an array of objects", messages)
    if not messages:
        message = (
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead."  # noqa: E501
        )
        raise bad(message, "messages", "empty_array")
    texts = [_message(message, at) for at, message in enumerate(messages)]
    check_calls(messages)
    shape = shape_of(body, texts)
    _settings(body)
    searching = bool(_SEARCHING.search(model))
    if strict_models:
        served_here(model, "chat")
        sampled(body, model, body.get("reasoning_effort"))
        if body.get("web_search_options") is not None and not searching:
            raise bad(f"Web search options not supported with this model. model={model}", "web_search_options")
    legacy, modern = positive(body, "max_tokens"), positive(body, "max_completion_tokens")
    if legacy is not None and strict_models and REASONING_MODEL.match(model):
        message = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."  # noqa: E501
        )
        raise bad(message, "max_tokens", "unsupported_parameter")
    within(body, "temperature", 0, 2)
    within(body, "top_p", 0, 1)
    stream, options = streamed(body)
    return chat(
        model,
        texts,
        legacy if modern is None else modern,
        stream=stream,
        copies=positive(body, "n", 128) or 1,
        stream_usage=bool(options.get("include_usage")),
        tier=tier_in(body),
        shape=shape,
        wants=replace(wants_in(model, body.get("reasoning_effort")), searches=searching, once=True),
    )


def _settings(body: dict[str, Any]) -> None:
    """Refuse settings of a wrong kind."""
    for name in ("presence_penalty", "frequency_penalty"):
        within(body, name, -2, 2)
    for name in ("logprobs", "parallel_tool_calls", "store"):
        if body.get(name) is not None and type(body[name]) is not bool:
            raise mistyped(name, "a boolean", body[name])
    if body.get("seed") is not None and type(body["seed"]) is not int:
        raise mistyped("seed", "an integer", body["seed"])
    if positive(body, "top_logprobs", 20, 0) is not None and body.get("logprobs") is not True:
        raise bad("The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.", "top_logprobs")
    one_of(body.get("reasoning_effort"), "reasoning_effort", EFFORTS)
    one_of(body.get("verbosity"), "verbosity", VERBOSITIES)
    one_of(body.get("prompt_cache_retention"), "prompt_cache_retention", ("in_memory", "24h"))
    metadata_in(body)
    stop = body.get("stop")
    if type(stop) is list and len(stop) > 4:
        message = f"Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length {len(stop)} instead."  # noqa: E501
        raise bad(message, "stop", "array_above_max_length")
    if stop is not None and not (type(stop) is str or (type(stop) is list and all(type(one) is str for one in stop))):
        raise mistyped("stop", "one of a string or array of strings", stop)
