"""Reads an error's words and codes out of a body of any form: what `signals` are compared with and what the user is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from models.signals import UNKNOWN_STATUS
from worker.providers.base import Reply
from worker.providers.replies import at, decode, objects, table

_DEEPEST = 6
_MOST_PARTS = 8
_MESSAGES = (
    "message",
    "Message",
    "error_message",
    "errorMessage",
    "error_description",
    "msg",
    "status_msg",
    "detail",
    "description",
)
_NESTED = (
    "error",
    "errors",
    "details",
    "Error",
    "innererror",
    "inner_error",
    "base_resp",
    "response",
    "status",
    "title",
)
_CODES = ("code", "error_code", "errorCode", "Code", "reason", "status_code", "internal_code")
_TYPES = ("type", "error_type", "status", "__type", "errorType", "error")
_VAGUE = re.compile(r"provider returned error|upstream error|unknown error|error", re.IGNORECASE)
"""Messages of gateways that only announce the upstream's own."""
_CODE = re.compile(r"[\w.:#/-]{1,100}")
_TITLE = re.compile(r"<title[^>]{0,200}>(.{1,500}?)</title>", re.IGNORECASE | re.DOTALL)
_UNSEEN = re.compile(
    r"<(script|style|head|svg)\b[^>]{0,500}>.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"<[^>]{0,500}>")
_STATUS_OF = {
    "invalid_argument": 400,
    "failed_precondition": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "resource_exhausted": 429,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
    "slow_down": 429,
    "throttlingexception": 429,
    "overloaded_error": 529,
    "api_error": 500,
    "server_error": 500,
    "timeout_error": 504,
}
"""The status that an error's name stands for where the error comes inside a 200."""


def message_in(body: Any) -> str | None:
    """Returns the human reason in an error body, or None.

    Reads strings and objects under any of the usual names, lists of them (FastAPI's with the field's name in front), JSON
    inside a string, and the upstream's own words where a gateway carries them beside a message of its own.
    """
    found: list[str] = []
    for text in _messages(body, 0):
        if not any(text in one for one in found):
            found = [one for one in found if one not in text]
            found.append(text)
        if len(found) >= _MOST_PARTS:
            break
    return "; ".join(found) or None


def _messages(value: Any, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, str):
        yield from _text(value, depth)
    elif isinstance(value, list):
        for item in value[:_MOST_PARTS]:
            yield from _messages(item, depth + 1)
    elif isinstance(value, dict):
        yield from _of_object(value, depth)


def _text(text: str, depth: int) -> Iterator[str]:
    """The text itself, or the words of the JSON that it is."""
    if text.lstrip().startswith(("{", "[")) and isinstance(
        inner := decode(text.encode("utf-8", "replace")), dict | list
    ):
        words = list(_messages(inner, depth + 1))
        if words:
            yield from words
            return
    if text.strip():
        yield text.strip()


def _of_object(value: dict[str, Any], depth: int) -> Iterator[str]:
    own = next((found for name in _MESSAGES if (found := list(_messages(value.get(name), depth + 1)))), [])
    raw = list(_messages(at(value, "metadata", "raw"), depth + 1))
    if raw and all(_VAGUE.fullmatch(text) for text in own):
        own = [*own, *raw]
    place = value.get("loc")
    if isinstance(place, list) and place and own:
        where = ".".join(str(step) for step in place if isinstance(step, str | int))
        own = [f"{where}: {own[0]}", *own[1:]]
    if own:
        yield from own
        return
    for name in _NESTED:
        inner = value.get(name)
        if isinstance(inner, str) and name in ("status", "response"):
            continue
        words = list(_messages(inner, depth + 1))
        if words:
            yield from words
            return


def page_text(text: str) -> str:
    """Returns what an HTML page shows, its title first; other text as it is."""
    title = _TITLE.search(text)
    shown = " ".join(_TAG.sub(" ", _UNSEEN.sub(" ", text)).split())
    named = " ".join(title[1].split()) if title else ""
    return f"{named}: {shown}" if named and shown and named not in shown else shown or named


def is_page(reply: Reply) -> bool:
    """Returns whether the body is an HTML page."""
    start = reply.body[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return (
        start.startswith((b"<!doctype html", b"<html")) or "text/html" in reply.headers.get("content-type", "").lower()
    )


def codes_in(body: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the machine-readable names in an error body, (all of them, the types alone), each once and in order."""
    codes: dict[str, None] = {}
    types: dict[str, None] = {}
    for part in _parts(body):
        details = part.get("details")
        for detail in (*objects(details), table(details)):
            codes.update(dict.fromkeys(_detail_codes(detail)))
        codes.update((code, None) for name in _CODES if (code := _code(part.get(name))) is not None)
        types.update((code, None) for name in _TYPES if (code := _code(part.get(name))) is not None)
        if isinstance(part.get("metadata"), dict) and "flagged_input" in part["metadata"]:
            codes["flagged_input"] = None
        if isinstance(status := at(part, "base_resp", "status_code"), int) and status:
            codes[f"base_resp:{status}"] = None
    return (*codes, *(kind for kind in types if kind not in codes)), tuple(types)


def _parts(body: Any) -> list[dict[str, Any]]:
    """The objects of a body that may hold codes: its `error`, those inside that, the first of `errors`, and at last itself."""
    found: list[dict[str, Any]] = []
    queue = [body]
    while queue and len(found) < 2 * _DEEPEST:
        part = queue.pop(0)
        if isinstance(part, list) and part:
            part = part[0]
        if isinstance(part, str) and part.lstrip().startswith("{"):
            part = decode(part.encode("utf-8", "replace"))
        if isinstance(part, dict):
            found.append(part)
            queue += [part.get(name) for name in ("error", "errors", "innererror", "response")]
            queue += [
                at(part, "metadata", "raw"),
                *(text for name in _MESSAGES if isinstance(text := part.get(name), str)),
            ]
    return [*found[1:], *found[:1]]


def _detail_codes(detail: dict[str, Any]) -> Iterator[str]:
    """The codes in one of Google's `details`, or in Anthropic's."""
    for name in ("reason", "error_code", "code"):
        if (code := _code(detail.get(name))) is not None:
            yield code
    for quota in objects(detail.get("violations")):
        if (quota_id := _code(quota.get("quotaId"))) is not None:
            by_model = ":dimension:model" if at(quota, "quotaDimensions", "model") else ""
            yield f"quotaId:{quota_id}{by_model}"
        if quota.get("quotaValue") in ("0", 0):
            yield "quotaValue:0"


def _code(value: Any) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and _CODE.fullmatch(value) else None


def status_of(reply: Reply, body: Any, codes: Iterable[str]) -> int:
    """Returns the status of an error. Inside a 200, gateways put the status that they got into the body, or only its name; else it
    is `UNKNOWN_STATUS`."""
    if not 200 <= reply.status < 300:
        return reply.status
    codes = [code.lower() for code in codes]
    for code in codes:
        if code.isdigit() and len(code) == 3 and 400 <= int(code) < 600:
            return int(code)
    for code in codes:
        if code in _STATUS_OF:
            return _STATUS_OF[code]
        if code.startswith(("invalid_", "image_", "unsupported_")):
            return 400
    return UNKNOWN_STATUS
