"""What a request's words tell of its tokens, its service tier and its tools before a call has told what it used.

It learns nothing (`worker.estimates` does) and knows no tokenizer and no price.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLD_CHARACTERS_PER_TOKEN = 3.5
COLD_OUTPUT_TOKENS = 1000
MEDIA_TOKENS = 1000
"""What an inline image or file is taken for; base64 text says nothing about it."""
TOKENS_A_MESSAGE = 4


def characters(value: Any) -> tuple[int, int]:
    """Characters of text in a request's input, and how many inline media it holds."""
    if isinstance(value, str):
        if len(value) > 512 and (value.startswith("data:") or " " not in value[:512]):
            return 0, 1
        return len(value), 0
    parts: Sequence[Any]
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list):
        parts = value
    else:
        return 0, 0
    total, media = 0, 0
    for part in parts:
        text, more = characters(part)
        total += text
        media += more
    return total, media


def input_tokens(source: Any) -> int:
    """Returns the estimated tokens of a request's input while nothing is learned."""
    return tokens_of(characters(source))


def tokens_of(size: tuple[int, int]) -> int:
    """Returns the estimated tokens of an input of this size: characters of text, inline media."""
    text, media = size
    return round(text / COLD_CHARACTERS_PER_TOKEN) + TOKENS_A_MESSAGE + media * MEDIA_TOKENS


def output_bound(source: Any) -> int | None:
    """The request's own bound on output tokens, in whichever dialect's words; None if it has none."""
    if not isinstance(source, Mapping):
        return None
    inner = source.get("generationConfig")
    for place in (source, inner if isinstance(inner, Mapping) else {}):
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens", "maxOutputTokens"):
            value = place.get(name)
            if type(value) is int and value > 0:
                return value
    return None


TIERS = frozenset({"flex", "priority", "fast", "ultrafast", "scale", "batch"})
"""Service tiers with prices of their own. What gateways call theirs (`on_demand`) is the usual one."""


def asked_tier(source: Any) -> str:
    """The service tier, or the speed, that a request asks for in whichever dialect's words; "" for the usual one."""
    if not isinstance(source, Mapping):
        return ""
    for name in ("service_tier", "serviceTier", "speed"):
        told = source.get(name)
        tier = told.lower().removeprefix("service_tier_") if isinstance(told, str) else ""
        if tier in TIERS:
            return tier
    return ""


def asked_fees(source: Any) -> tuple[tuple[str, int], ...]:
    """The uses of tools billed by the use that a request makes possible: as many as it allows, or one where it names no bound."""
    tools = source.get("tools") if isinstance(source, Mapping) else None
    found: dict[str, int] = {}
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, Mapping):
            continue
        kind = str(tool.get("type", ""))
        most = [tool.get("max_uses"), source.get("max_tool_calls")]
        uses = next((one for one in most if type(one) is int and one > 0), 1)
        if kind.startswith("web_search") or not tool.keys().isdisjoint(("googleSearch", "google_search")):
            found["web_search_requests"] = uses
        elif kind == "file_search":
            found["file_search_requests"] = uses
        elif kind == "code_interpreter":
            found["code_interpreter_sessions"] = 1
        elif kind == "image_generation":
            found["image_generation_requests"] = uses
    if isinstance(source, Mapping) and source.get("web_search_options") is not None:
        found["web_search_requests"] = 1
    return tuple(sorted(found.items()))


def writes_cache(source: Any) -> str:
    """How long a request keeps parts of its prompt in the cache, by its marks for it: "1h", "5m", or "" without any."""
    longest = ""
    waiting = [source]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            mark = value.get("cache_control")
            if isinstance(mark, Mapping):
                if mark.get("ttl") == "1h":
                    return "1h"
                longest = "5m"
            waiting += [inner for inner in value.values() if isinstance(inner, Mapping | list)]
        elif isinstance(value, list):
            waiting += [inner for inner in value if isinstance(inner, Mapping | list)]
    return longest
