"""What all dialects share in reading a failure: cleaned messages and codes, how long to wait, the failures that any server can cause.

It does not know any provider's error codes; each dialect's own file maps them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from models.request import Failure, FailureKind
from worker.providers.base import Reply, http_failure
from worker.providers.masks import MASK, masked
from worker.providers.replies import at, http_date, name, reply_time, seconds, storable

MESSAGE_LIMIT = 1000
_LONGEST_KEY = 1000
"""So much more is looked at than is kept: no key is cut in half before it is known."""
_KEY_LIKE = re.compile(
    r"""
    \b(?:sk|pk|rk)-[\w*.-]{6,}       # OpenAI, Anthropic and many others; masked forms too
    | \bAIza[\w*.-]{10,} | \bAQ\.[\w*.-]{10,} | \bya29\.[\w*.-]{10,}   # Google
    | \bgsk_\w{10,} | \bhf_\w{10,} | \bxai-[\w-]{10,} | \bnvapi-[\w-]{10,}
    | (?i:\bbearer\s+)[\w.~+/=*-]{6,}
    | (?i:(?<=\bkey=)|(?<=\bapi_key:)|(?<=\bapi-key:))[^\s&"']{6,}
    """,
    re.VERBOSE,
)
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def clean(text: Any, secrets: Iterable[str] = ()) -> str:
    """A message fit for a database, a log and a page: no secrets, no control characters, at most 1,000 characters."""
    if not isinstance(text, str):
        return ""
    message = masked(storable(text[: 50 * MESSAGE_LIMIT + _LONGEST_KEY]), secrets)[: 50 * MESSAGE_LIMIT]
    message = _KEY_LIKE.sub(MASK, message)
    message = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def code_name(*candidates: Any) -> str | None:
    """The first candidate that can be a failure's code, as lower-case letters, digits, `_`, `.` and `-`."""
    for candidate in candidates:
        if isinstance(candidate, str):
            code = re.sub(r"[^a-z0-9_.-]+", "_", clean(candidate).replace(MASK, "").lower()).strip("_")[:64]
            if code:
                return code
    return None


def unreadable(reply: Reply, message: str) -> Failure:
    """A whole reply that makes no sense: maybe billed, and asking again may help."""
    return Failure(FailureKind.NETWORK, "unreadable_reply", message, reply.status)


def truncated(reply: Reply) -> Failure:
    """A stream that ended before its finish marker, or of which a piece can't be read."""
    message = "a piece of the streamed reply or its end is missing; it may have been billed"
    return Failure(FailureKind.NETWORK, "truncated", message, reply.status)


def redirected(reply: Reply) -> Failure:
    """A redirect, which is never followed: it would hand the key to another address."""
    message = f"HTTP {reply.status}: the server redirects, which is not followed; is this provider's base_url right?"
    return Failure(FailureKind.BAD_REQUEST, f"http_{reply.status}", message, reply.status)


def plain_failure(reply: Reply, secrets: Sequence[str]) -> Failure:
    """A failure from a status and a body that isn't the dialect's error form, such as a proxy's page."""
    begin = masked(reply.body[: 4000 + _LONGEST_KEY].decode("utf-8", "replace"), secrets)[:4000]
    text = clean(re.sub(r"<[^>]{0,500}>", " ", begin), secrets)[:300]
    kind = FailureKind.BAD_REQUEST if reply.status == 404 else None
    failure = http_failure(reply, kind, f"HTTP {reply.status}: {text}" if text else None)
    return replace(failure, retry_after=retry_after(reply))


def message_in(body: Any) -> str | None:
    """The human reason in an error body of any of the forms that servers use; None if there is none."""
    for path in (("error", "message"), ("error",), ("message",), ("detail",), ("detail", 0, "msg"), ("title",)):
        found = at(body, *path)
        if isinstance(found, str) and found.strip():
            return found
    return None


def names_model(text: str, model: str) -> bool:
    """Whether an error text is about this model."""
    bare = model.removeprefix("models/")
    return bool(bare) and bare.lower() in text.lower()


_ACCOUNT = re.compile(
    r"\b(api[ _-]?keys?|accounts?|organi[sz]ations?|workspaces?|projects?|billing|country|region|location|credentials?|"
    r"oauth|suspended|disabled|leaked|consumer|service)\b",
    re.IGNORECASE,
)


def forbidden_kind(text: str, model: str) -> FailureKind:
    """What a 403 is about: the key or its account if the text says so and doesn't name the model, else this key with this model."""
    about_model = names_model(text, model) or re.search(r"\bmodels?\b", text, re.IGNORECASE)
    return FailureKind.AUTH if not about_model and _ACCOUNT.search(text) else FailureKind.KEY_MODEL


def missing_kind(text: str, model: str) -> FailureKind:
    """What a 404 is about: the model only if the text names it; else a file, a path, something of this one request."""
    return FailureKind.MODEL if names_model(text, model) else FailureKind.BAD_REQUEST


def duration(text: Any) -> float | None:
    """Seconds of a duration as Go writes it (`6m0s`, `17ms`, `45.5s`) or of a bare number; None for anything else."""
    if isinstance(text, str) and text and (match := _DURATION.fullmatch(text.strip())) and any(match.groups()):
        days, hours, minutes, secs, millis = (float(part or 0) for part in match.groups())
        return days * 86400 + hours * 3600 + minutes * 60 + secs + millis / 1000
    return seconds(text)


def retry_after(reply: Reply) -> float | None:
    """Seconds to wait as the headers tell: `retry-after-ms`, else `retry-after` in seconds or as a date."""
    millis = seconds(reply.headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    told = reply.headers.get("retry-after")
    wait = seconds(told)
    if wait is None and (date := http_date(told)) is not None:
        wait = max(0.0, date - reply_time(reply))
    return wait


def until(reply: Reply, moment: datetime) -> float:
    """Seconds from the reply to a moment, 0 if it has passed."""
    return max(0.0, moment.timestamp() - reply_time(reply))


def until_timestamp(reply: Reply, text: str | None) -> float | None:
    """Seconds from the reply to an RFC 3339 time; None if it is none."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return until(reply, moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def until_pacific_midnight(reply: Reply) -> float:
    """Seconds to the next midnight in California, where Gemini's day begins."""
    zone = _pacific()
    today = datetime.fromtimestamp(reply_time(reply), zone).date()
    return until(reply, datetime.combine(today + timedelta(days=1), datetime.min.time(), zone))


def _pacific() -> tzinfo:
    try:
        return ZoneInfo("America/Los_Angeles")
    except ZoneInfoNotFoundError:  # a machine without a time zone database: in summer an hour late
        return timezone(timedelta(hours=-8))


def until_next_month(reply: Reply) -> float:
    """Seconds to the first of the next month, UTC, when monthly spend limits begin anew."""
    now = datetime.fromtimestamp(reply_time(reply), UTC)
    year, month = (now.year + 1, 1) if now.month == 12 else (now.year, now.month + 1)
    return until(reply, datetime(year, month, 1, tzinfo=UTC))


def exhausted_reset(headers: Mapping[str, str], read_reset: Any, names: Iterable[tuple[str, str]]) -> float | None:
    """The longest reset among the limits of which nothing remains; None if the headers show none.

    `names` are pairs of header names, (remaining, reset); `read_reset` turns a reset's text into seconds.
    """
    waits = [
        wait
        for remaining, reset in names
        if seconds(headers.get(remaining)) == 0 and (wait := read_reset(headers.get(reset))) is not None
    ]
    return max(waits, default=None)


def request_id(reply: Reply, *own: Any) -> str | None:
    """The provider's id of the call, from what its body or headers tell."""
    for value in (*own, reply.headers.get("x-request-id"), reply.headers.get("request-id")):
        if found := name(value):
            return found
    return None
