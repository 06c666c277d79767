"""What the sandbox's OpenAI accepts as a chat completion, and how it words a refusal.

It writes no replies and knows no limits.
"""

import re

from worker.sandbox.dialect import Chat, chat, names, stand_in
from worker.sandbox.openai_checks import (
    bad,
    load,
    missing,
    mistyped,
    model_in,
    positive,
    streamed,
    tier_in,
    within,
    wrong_value,
)

_FIELDS = names(
    "model messages audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens "
    "metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier "
    "stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity "
    "web_search_options"
)
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_PARTS = ("text", "image_url", "input_audio", "file", "refusal")
REASONING_MODEL = re.compile(r"(ft:)?(o\d|gpt-[5-9])")


def _content(content: object, where: str, empty_allowed: bool) -> str:
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
        if kind not in _PARTS:
            raise wrong_value(kind, f"{spot}.type", _PARTS)
        if kind != "text":
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
    text = _content(message.get("content"), where, role == "assistant" and bool(calls or message.get("function_call")))
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
    )
