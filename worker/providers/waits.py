"""Reads the waits that replies state: headers, fields of a body, and words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from worker.limits.shapes import believed
from worker.providers.base import Reply
from worker.providers.replies import at, http_date, objects, reply_time, seconds, table

LONGEST_DATE_SECONDS = 40 * 86400.0
"""The farthest date that a message may name for a quota: a month's end, with some room."""
_UNIX_TIME = 1e9
"""Numbers above it are unix times: as seconds they would be 31 years."""
_UNIX_MILLISECONDS = 1e11

_UNIT = r"(?:milliseconds?|millis|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)"
_ONE = rf"(\d+(?:\.\d+)?)\s*({_UNIT})(?![a-z])"
_SPAN = re.compile(_ONE, re.IGNORECASE)
_ALL = rf"\d+(?:\.\d+)?\s*{_UNIT}(?![a-z])(?:[\s,]*(?:and\s+)?\d+(?:\.\d+)?\s*{_UNIT}(?![a-z]))*"
_IN_WORDS = re.compile(
    rf"\b(?:try again|tried again|retry|retried|retrying|wait|available|resets?)\b(?:\s+\w+){{0,3}}?"
    rf"\s+(?:in|after|for|within)?\s*(?:about\s+|approximately\s+|at least\s+|~\s*)?({_ALL})",
    re.IGNORECASE,
)
_IN_CHINESE = re.compile(r"(\d+(?:\.\d+)?)\s*(秒|分钟|小时)(?:钟)?(?:后|之后|以后)")
_DATE = re.compile(
    r"\b(?:resets?|regain access|try again|retry|available|until|after)\b[^\d]{0,40}?"
    r"(\d{4})-(\d{2})-(\d{2})(?:(?:T|\s+at\s+|\s+)(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?)?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE,
)
_CLOCK = re.compile(
    r"\b(?:replenished|resets?|try again|retry) in (?:(\d{1,3})\.)?(\d{1,2}):(\d{2}):(\d{2})\b", re.IGNORECASE
)
"""A span as .NET writes it, [days.]hours:minutes:seconds (Azure API Management)."""
_HOUR = re.compile(r"\bresets?\b(?: \w+){0,3}? at (\d{1,2}):(\d{2})(?::\d{2})? ?(?:UTC|GMT)\b", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "mi": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LIMITS = (
    *(
        (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}")
        for what in ("requests", "tokens", "project-tokens")
    ),
    *(
        (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
    ),
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
)
"""Header names, (remaining, reset), of OpenAI, Anthropic, OpenRouter and the IETF draft."""
_FIELDS = (
    "retry_after",
    "retry_after_seconds",
    "retryAfter",
    "retryDelay",
    "resets_in_seconds",
    "estimated_time",
    "wait_seconds",
)
_PLACES: tuple[tuple[str, ...], ...] = (
    (),
    ("error",),
    ("error", "metadata"),
    ("metadata",),
    ("error", "details"),
    ("parameters",),
)


def duration(text: Any) -> float | None:
    """Returns the seconds of a duration (`6m0s`, `17ms`, `1 hour and 5 minutes`) or of a bare number; None for anything else."""
    if isinstance(text, str) and re.fullmatch(_ALL, text.strip(), re.IGNORECASE):
        return _total(text)
    return seconds(text)


def moment(value: Any, now: float) -> float | None:
    """Returns the seconds from `now` (unix seconds) to what a header or field states, at least 0; None if it states nothing.

    Takes a number of seconds, a number above 10^9 (a unix time, also in milliseconds), a duration, an HTTP date, RFC 3339.
    """
    number = duration(value)
    if number is not None:
        if number > _UNIX_MILLISECONDS:
            number /= 1000
        return max(0.0, number - now) if number > _UNIX_TIME else number
    if not isinstance(value, str):
        return None
    date = http_date(value)
    if date is None:
        try:
            named = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
        date = (named if named.tzinfo else named.replace(tzinfo=UTC)).timestamp()
    return max(0.0, date - now)


def stated_wait(reply: Reply, body: Any, message: str, *, exhausted: bool) -> float | None:
    """Returns the wait in seconds that a reply states, bounded; None if it states none.

    In this order: `retry-after-ms`, `retry-after`, a field of the body, where `exhausted` the longest reset among the limits of
    which nothing remains, the message's words.
    """
    now = reply_time(reply)
    for headers in (reply.headers, dict(_inner_headers(body))):
        millis = seconds(headers.get("retry-after-ms"))
        wait = millis / 1000 if millis is not None else moment(headers.get("retry-after"), now)
        if wait is not None:
            return believed(wait)
    for value in _fields(body):
        if (wait := moment(value, now)) is not None:
            return believed(wait)
    if exhausted:
        resets = [*_resets(reply.headers, now), *_resets(dict(_inner_headers(body)), now)]
        if resets:
            return believed(max(resets))
    wait = wait_in_words(message, now)
    return None if wait is None else believed(wait)


def wait_in_words(message: str, now: float, hours_east: float = 0.0) -> float | None:
    """Returns the wait in seconds that a message names ("try again in 7s", "will reset at 2026-11-30 20:00"), or None."""
    if found := _IN_WORDS.search(message):
        return _total(found[1])
    if found := _IN_CHINESE.search(message):
        return float(found[1]) * {"秒": 1.0, "分钟": 60.0, "小时": 3600.0}[found[2]]
    if (found := _HOUR.search(message)) and int(found[1]) < 24 and int(found[2]) < 60:
        return (int(found[1]) * 3600 + int(found[2]) * 60 - now) % 86400
    return date_in_words(message, now, hours_east)


def date_in_words(message: str, now: float, hours_east: float = 0.0) -> float | None:
    """Returns the seconds to the date that a message names, or of a span of days, at most 40 days; None if it names none. A date without a zone is
    read `hours_east` of UTC."""
    if span := _CLOCK.search(message):
        days, hours, minutes, second = (int(part or 0) for part in span.groups())
        return min(LONGEST_DATE_SECONDS, float(((days * 24 + hours) * 60 + minutes) * 60 + second))
    found = _DATE.search(message)
    if not found:
        return None
    zone: timezone = timezone(timedelta(hours=hours_east))
    if found[7]:
        digits = found[7].replace(":", "")
        offset = 0 if not digits[1:].isdigit() else int(digits[1:3]) * 60 + int(digits[3:5])
        zone = timezone(timedelta(minutes=-offset if digits[0] == "-" else offset))
    try:
        named = datetime(*(int(part or 0) for part in found.group(1, 2, 3, 4, 5, 6)), tzinfo=zone)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return min(LONGEST_DATE_SECONDS, max(0.0, named.timestamp() - now))


def _total(text: str) -> float:
    return sum(
        float(number) * _SECONDS.get(unit.lower()[:2], _SECONDS.get(unit.lower()[:1], 1.0))
        for number, unit in _spans(text)
    )


def _spans(text: str) -> list[tuple[str, str]]:
    return [(number, "m" if unit.lower().startswith("min") else unit) for number, unit in _SPAN.findall(text)]


def _inner_headers(body: Any) -> Iterator[tuple[str, Any]]:
    """The headers that OpenRouter repeats in an error's metadata."""
    for name, value in table(at(body, "error", "metadata", "headers")).items():
        yield name.lower(), value


def _resets(headers: Mapping[str, Any], now: float) -> list[float]:
    return [
        wait
        for remaining, reset in _LIMITS
        if seconds(headers.get(remaining)) == 0 and (wait := moment(headers.get(reset), now)) is not None
    ]


def _fields(body: Any) -> Iterator[Any]:
    for place in _PLACES:
        found = at(body, *place)
        for part in (table(found), *objects(found)):
            for name in _FIELDS:
                if name in part:
                    yield part[name]
            if "retry_after_ms" in part and (millis := seconds(part["retry_after_ms"])) is not None:
                yield millis / 1000
