"""A traced call as text for people: request, reply, answer, and what would come next.

It reads nothing: keys were taken out where the call was kept.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from models.money import format_money
from models.wording import duration

MOST_SHOWN = 4000
"""Characters of a body; --json has all of it."""
_OF_INTEREST = re.compile(
    r"ratelimit|rate-limit|retry-after|^content-type$|request-id|^date$|^location$|^server$|^x-should-retry$|processing-ms|^cf-ray$"
)
_MEANINGS = {
    "rate_limit": "a rate limit: the key waits, and no retry is spent",
    "quota": "no money or quota: the account's keys are put into quarantine",
    "auth": "a refused key: once the free list of models confirms it, the key is put into quarantine",
    "key_model": "the key may not use the model",
    "model": "the provider hasn't the model",
    "server": "the provider's own failure",
    "network": "no whole reply",
    "context_length": "longer than the model's context",
    "too_large": "too large",
    "content_filter": "refused by a content filter",
    "bad_request": "refused, and it would be each time",
}


def as_text(shown: Mapping[str, Any]) -> str:
    """What `truckllm try` prints of its JSON. Control characters of a reply do nothing to a terminal."""
    lines: list[str] = []
    calls: Sequence[Mapping[str, Any]] = shown["calls"]
    for call in calls:
        lines += [f"> {call['method']} {call['url']}", *_headers(call["headers"], ">"), *_body(call["body"], ">"), ""]
        lines += [*_reply(call), ""]
    if not calls and shown["status"] in ("succeeded", "failed"):
        lines += [_without_trace(shown), ""]
    if shown["raised"]:
        lines += ["the plugin raised:", *shown["raised"].rstrip().split("\n"), ""]
    if shown["status"] == "succeeded":
        lines += _answer(shown)
    elif shown["status"] == "failed":
        lines += _failure(shown)
    if shown["latency_ms"] is not None or shown["input_tokens"] is not None:
        lines.append(_figures(shown))
    lines.append(
        f"batch {shown['batch_id']}, model {shown['model']}" + (f", key {shown['key']}" if shown["key"] else "")
    )
    return "".join(f"{_harmless(line)}\n" for line in lines)


def _without_trace(shown: Mapping[str, Any]) -> str:
    error = shown["error"] or {}
    if error.get("code") == "untranslatable":
        return "nothing was sent"
    return "no request to show: the call was not made over TruckLLM's HTTP client, or by a worker of an older version"


def _headers(headers: Mapping[str, str], mark: str) -> list[str]:
    return [f"{mark} {name}: {value}" for name, value in headers.items()]


def _body(body: Any, mark: str) -> list[str]:
    if body is None or body == "":
        return []
    text = body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)
    if len(text) > MOST_SHOWN:
        text = f"{text[:MOST_SHOWN]}\n… {len(text) - MOST_SHOWN:,} more characters; --json shows them"
    return [mark, *(f"{mark} {line}" for line in text.split("\n"))]


def _reply(call: Mapping[str, Any]) -> list[str]:
    lines = []
    if (reply := call["reply"]) is not None:
        part = " (in part)" if call["error"] else ""
        lines.append(f"< HTTP {reply['status']}{part}, {reply['bytes']:,} bytes in {reply['latency_ms']:,} ms")
        found = {name: value for name, value in reply["headers"].items() if _OF_INTEREST.search(name)}
        lines += [*_headers(found, "<"), *_body(reply["body"], "<")]
    if (error := call["error"]) is not None:
        sent = "it may have been billed" if error["sent"] else "nothing was sent"
        lines.append(f"< no whole reply: {error['code']}: {error['message']} ({sent})")
    return lines


def _answer(shown: Mapping[str, Any]) -> list[str]:
    lines = ["answer:", *(shown["text"].split("\n") if shown["text"] is not None else ["(no text)"])]
    told = [f"finish reason {shown['finish_reason']}"] if shown["finish_reason"] else []
    told += [f"served by {shown['served_model']}"] if shown["served_model"] else []
    return [*lines, "", *([", ".join(told)] if told else [])]


def _failure(shown: Mapping[str, Any]) -> list[str]:
    error = shown["error"] or {"code": None, "message": None}
    lines = [f"failed: {error['code']}: {error['message']}"]
    if failure := shown["failure"]:
        scope = f", concerning the {failure['scope']}" if failure["scope"] else ""
        lines.append(f"kind: {failure['kind']} ({_MEANINGS.get(failure['kind'], 'unknown')}){scope}")
    if shown["next"]:
        lines.append(f"next: {_next(shown['next'])}")
    return lines


def _next(what: Mapping[str, Any]) -> str:
    if what["fails"]:
        return "an ordinary job fails now"
    if what["seconds"]:
        return f"an ordinary job is asked again after {duration(what['seconds'])}; this one isn't"
    return "an ordinary job is asked again as soon as a key or a candidate may take it; this one isn't"


def _figures(shown: Mapping[str, Any]) -> str:
    parts = []
    if shown["input_tokens"] is not None:
        cached = f" ({shown['cached_tokens']:,} cached)" if shown["cached_tokens"] else ""
        parts.append(f"{shown['input_tokens']:,} tokens in{cached}, {shown['output_tokens']:,} out")
    else:
        parts.append("no tokens reported")
    parts.append("no price" if shown["cost"] is None else format_money(shown["cost"], shown["currency"]))
    if shown["latency_ms"] is not None:
        parts.append(f"{shown['latency_ms']:,} ms")
    return ", ".join(parts)


def _harmless(line: str) -> str:
    """The line without letters that command a terminal or turn the direction of text."""
    return "".join(
        " " if one == "\t" else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(one) in ("Cc", "Cf", "Cs") else one
        for one in line
    )
