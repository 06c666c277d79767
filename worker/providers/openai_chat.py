"""OpenAI's `/chat/completions`: what its bodies mean, piece by piece where they are streamed, and what their usage counts.

It does not judge errors: they have the form that all of the dialect's errors have, which `openai` reads.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from models.request import Failure, FailureKind, Usage
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.failures import clean, unreadable
from worker.providers.growing import grown, is_text
from worker.providers.replies import at, count, name, objects, storable, table, told_count

_SEARCHING = re.compile(r"-search-(preview|api)")
"""Chat models that search for every answer."""


def answer(body: dict[str, Any], reply: Reply) -> Answer | None:
    """What a body means: its first choice. None if it has none and tells no usage."""
    choice = at(body, "choices", 0)
    message = at(choice, "message")
    usage = read_usage(body.get("usage"))
    if usage is not None and _SEARCHING.search(name(body.get("model")) or ""):
        usage = replace(usage, fees=(("web_search_requests", 1),))
    if not isinstance(message, dict):
        return (
            None
            if usage is None
            else Answer(usage=usage, failure=unreadable(reply, "the reply tells its usage but holds no choice"))
        )
    content = message.get("content")
    text = storable(content) if isinstance(content, str) else _joined(content)
    finish = name(choice.get("finish_reason"))
    failure = None
    if not text and not message.get("tool_calls") and not message.get("function_call"):
        refusal = clean(message.get("refusal"))
        if refusal:
            failure = Failure(FailureKind.CONTENT_FILTER, "refusal", refusal, reply.status)
        elif finish == "content_filter":
            reason = "the provider's content filter removed the whole answer"
            failure = Failure(FailureKind.CONTENT_FILTER, "content_filter", reason, reply.status)
    return Answer(usage, text, finish, name(body.get("model")), failure)


def read_usage(usage: Any) -> Usage | None:
    """Cached and written tokens are part of prompt_tokens, reasoning is part of completion_tokens. None if a count is missing.

    One family of compatible servers counts reasoning apart from completion_tokens; its total_tokens tells.
    """
    given, made = told_count(at(usage, "prompt_tokens")), told_count(at(usage, "completion_tokens"))
    if given is None or made is None:
        return None
    reasoning = count(at(usage, "completion_tokens_details", "reasoning_tokens"))
    if reasoning and count(usage.get("total_tokens")) == given + made + reasoning:
        made += reasoning
    return Usage(
        input_tokens=given,
        output_tokens=made,
        cached_tokens=count(
            at(usage, "prompt_tokens_details", "cached_tokens") or usage.get("prompt_cache_hit_tokens")
        ),
        cache_write_tokens=count(at(usage, "prompt_tokens_details", "cache_write_tokens")),
        reasoning_tokens=reasoning,
        modalities=_modalities(usage),
    )


def _modalities(usage: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """The tokens that aren't text. Which of them were cached isn't told: none, as far as there was other input."""
    details = usage.get("prompt_tokens_details")
    made = usage.get("completion_tokens_details")
    if not (at(details, "audio_tokens") or at(details, "image_tokens") or at(made, "audio_tokens")):
        return ()
    fresh = (
        count(usage.get("prompt_tokens"))
        - count(at(details, "cached_tokens"))
        - count(at(details, "cache_write_tokens"))
    )
    sound = min(count(at(details, "audio_tokens")), max(0, fresh))
    found = {
        "input_audio": sound,
        "input_image": min(count(at(details, "image_tokens")), max(0, fresh - sound)),
        "output_audio": count(at(made, "audio_tokens")),
    }
    return tuple((kind, tokens) for kind, tokens in found.items() if tokens)


def add(choices: dict[int, dict[str, Any]], part: dict[str, Any]) -> None:
    """Adds one chunk's part of a choice: texts grow, lists grow, other values replace."""
    index = count(part.get("index"))
    choice = choices.setdefault(
        index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
    )
    if isinstance(finish := part.get("finish_reason"), str):
        choice["finish_reason"] = finish
    for key, value in table(part.get("logprobs")).items():
        if isinstance(value, list):
            lists = choice.setdefault("logprobs", {})
            lists.setdefault(key, []).extend(value)
    message = choice["message"]
    for key, value in table(part.get("delta")).items():
        if key == "tool_calls":
            calls = message.setdefault("tool_calls", {})
            for call in objects(value):
                _grow(calls.setdefault(count(call.get("index")), {}), call)
        elif key != "role":
            _grow(message, {key: value})


def _grow(whole: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        old = whole.get(key)
        if key == "index" or (value is None and key in whole):
            continue
        if isinstance(value, str) and is_text(old) and key not in ("id", "type"):
            whole[key] = grown(old, value)
        elif isinstance(value, dict) and isinstance(old, dict):
            _grow(old, value)
        else:
            whole[key] = dict(value) if isinstance(value, dict) else value


def _joined(content: Any) -> str | None:
    """The text of a content that came as a list of parts, as some compatible servers send it."""
    texts = [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]
    return storable("".join(texts)) if texts else None
