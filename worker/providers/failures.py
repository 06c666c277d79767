"""Reads a failure from a reply: cleaned words and codes, what they mean by the dialect's table of signals, and the stated wait."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from models.request import Failure, FailureKind, Request
from models.signals import ErrorFacts, Signal, first_match
from worker.limits.shapes import believed
from worker.providers.base import Reply
from worker.providers.error_bodies import codes_in, is_page, message_in, page_text, status_of
from worker.providers.masks import MASK, masked
from worker.providers.replies import encode, name, reply_time, storable
from worker.providers.waits import date_in_words, stated_wait

MESSAGE_LIMIT = 1000
_LONGEST_KEY = 1000
"""So much more is looked at than is kept: no key is cut in half before it is known."""
KEY_LIKE = re.compile(
    r"""
    \b(?:sk|pk|rk)-[\w*.-]{6,}       # OpenAI, Anthropic and many others; masked forms too
    | \bAIza[\w*.-]{10,} | \bAQ\.[\w*.-]{10,} | \bya29\.[\w*.-]{10,}   # Google
    | \bgsk_\w{10,} | \bhf_\w{10,} | \bxai-[\w-]{10,} | \bnvapi-[\w-]{10,}
    | (?i:\bbearer\s+)[\w.~+/=*-]{6,}
    | (?i:(?<=\bkey=)|(?<=\bapi_key:)|(?<=\bapi-key:))[^\s&"']{6,}
    """,
    re.VERBOSE,
)


def clean(text: Any, secrets: Iterable[str] = ()) -> str:
    """A message fit for a database, a log and a page: no secrets, no control characters, at most 1,000 characters."""
    if not isinstance(text, str):
        return ""
    message = masked(storable(text[: 50 * MESSAGE_LIMIT + _LONGEST_KEY]), secrets)[: 50 * MESSAGE_LIMIT]
    message = KEY_LIKE.sub(MASK, message)
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
    message = f"HTTP {reply.status}: the server redirects, which is not followed"
    return Failure(FailureKind.BAD_REQUEST, f"http_{reply.status}", message, reply.status)


def read_failure(
    reply: Reply, body: Any, *, request: Request, secrets: Sequence[str], signals: tuple[Signal, ...]
) -> Failure:
    """Returns the failure that a reply to `request` stands for, by the first of the `signals` that matches.

    `body` is the decoded error body, or None where it isn't JSON; the status may be 200, since errors come inside streams too.
    """
    codes, types = codes_in(body)
    if body is None and is_page(reply):
        types = (*types, "html_page")
    message = clean(message_in(body), secrets) or beginning(reply, body, secrets)
    error = ErrorFacts(status_of(reply, body, codes), codes, types, message, cache(lambda: _texts(request.input)))
    signal = first_match(signals, error, request.model)
    kind = FailureKind.SERVER if signal is None else signal.meaning
    wait = resets = None
    if kind in _WAITING:
        wait = _wait(signal, reply, body, message, kind)
    if kind is FailureKind.QUOTA:
        wait, resets = None, wait
    return Failure(
        kind=kind,
        code=_failure_code(codes, error.status if str(error.status) in codes else reply.status, kind),
        message=message,
        http_status=reply.status,
        retry_after=wait,
        resets_in=resets,
        scope=None if signal is None else signal.scope,
    )


def _texts(value: Any) -> str:
    """The texts in a request's body, with single blanks, as messages are cleaned."""
    found: list[str] = []
    left = [value]
    while left:
        inside = left.pop()
        if isinstance(inside, str):
            found.append(" ".join(inside.split()))
        else:
            left += (
                inside.values() if isinstance(inside, Mapping) else inside if isinstance(inside, list | tuple) else ()
            )
    return "\n".join(found)


_WAITING = frozenset({FailureKind.RATE_LIMIT, FailureKind.SERVER, FailureKind.QUOTA})


def _wait(signal: Signal | None, reply: Reply, body: Any, message: str, kind: FailureKind) -> float | None:
    """The wait in seconds: the signal's own, else the one that the reply states. A quota may name a day weeks ahead."""
    now = reply_time(reply)
    if signal is not None and signal.wait is not None:
        wait = signal.wait.from_time(now)
        return wait if kind is FailureKind.QUOTA else believed(wait)
    if kind is FailureKind.QUOTA:
        east = 0.0 if signal is None else signal.hours_east
        if (wait_to_date := date_in_words(message, now, east)) is not None:
            return wait_to_date
    return stated_wait(reply, body, message, exhausted=kind is FailureKind.RATE_LIMIT)


def _failure_code(codes: Iterable[str], status: int, kind: FailureKind) -> str:
    own = [code for code in codes if not code.startswith("quota") and not re.fullmatch(r"\d{3}|[Ee]rror", code)]
    if code := code_name(*own):
        return code
    return kind.value if kind is FailureKind.CONTENT_FILTER else f"http_{status}"


def beginning(reply: Reply, body: Any, secrets: Sequence[str]) -> str:
    """The status and the beginning of a body in which no message was found: a page's title and text, or what else it holds."""
    try:
        raw = encode(body) if isinstance(body, dict | list) else reply.body
    except RecursionError:  # nested deeper than can be written
        raw = reply.body
    text = masked(raw[: 16000 + _LONGEST_KEY].decode("utf-8", "replace"), secrets)[:16000]
    shown = clean(page_text(text) if is_page(reply) or "<" in text[:64] else text, secrets)[:300]
    empty = not shown or shown in ("{}", "[]", "null")
    return f"HTTP {reply.status}" if empty else f"HTTP {reply.status}: {shown}"


def request_id(reply: Reply, *own: Any) -> str | None:
    """The provider's id of the call, from what its body or headers tell."""
    for value in (*own, reply.headers.get("x-request-id"), reply.headers.get("request-id")):
        if found := name(value):
            return found
    return None
