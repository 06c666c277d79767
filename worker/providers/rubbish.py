"""Rubbish for readers of replies, and what must hold whatever came.

It does not know any provider, and it draws nothing at random: it holds what a check goes through every time.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import orjson

from models.request import Request, Response
from worker.providers.base import Provider, Reply

NONSENSE: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**70, "", "text", "\ud800", "\0"),
    *([], [None], [[]], ["text"], [{}], {}, {"": None}, {"error": []}, {"message": {}}),
)
"""What any value of a reply might be by mistake."""
STATUSES = (200, 201, 204, 302, 400, 401, 403, 404, 429, 500, 529, 599)
HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "text/event-stream"},
    {"content-type": "text/event-stream; charset=\0"},
    {"retry-after": "1e999", "retry-after-ms": "nan"},
    {"retry-after": "-1"},
    {"retry-after": "Mon, 99 Foo", "date": "Mon, 99 Foo"},
    {"x-request-id": "\0", "request-id": ""},
)


def dumped(value: Any) -> bytes:
    """JSON bytes, of lone surrogates and huge integers too."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode()


BODIES = (
    *(
        b"",
        b" ",
        b"\xff\xfe\x00",
        b"<html>Oops</html>",
        b'{"ok": tru',
        b'"\\ud800"',
        b"[" * 5000,
        b'{"a":' * 5000,
        b"1e999",
    ),
    *map(dumped, NONSENSE),
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside decoded JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places_in(one, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of decoded JSON with another value at a path."""
    if not path:
        return new
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], new)
    return changed


def survives(provider: Provider, request: Request, reply: Reply) -> None:
    """Reads a reply and checks what must hold whatever came. Raises AssertionError."""
    told = f"HTTP {reply.status}, the headers {dict(reply.headers)} and the body {reply.body[:300]!r}"
    try:
        response = provider.read(request, reply)
    except Exception as error:
        raise AssertionError(
            f"reading raised {type(error).__name__}: {error}, for {told}. It should return a Response with a failure"
        ) from error
    wrong = _wrong(response, reply.status)
    assert wrong is None, f"{wrong}, for {told}"


def _wrong(response: Response, status: int) -> str | None:
    """A sentence on what doesn't hold that must hold for every response; None if all does."""
    if response.http_code != status:
        return f"http_code is {response.http_code}: it has to be the reply's status"
    if status >= 300 and response.failure is None:
        return "there is no failure: a status above 299 is never an answer"
    for name in ("text", "finish_reason", "served_model", "request_id"):
        value = getattr(response, name)
        if value is not None and not _storable(value):
            return f"{name} is {value!r}: it has to be text that UTF-8 can write, or None"
    if (failure := response.failure) is not None:
        if not (failure.code and isinstance(failure.message, str) and failure.message.isprintable()):
            return f"the failure has the code {failure.code!r} and the message {failure.message!r}: a code and printable text are needed"
        for wait in (failure.retry_after, failure.resets_in):
            if wait is not None and not 0 <= wait < float("inf"):
                return f"the failure's wait is {wait}: it has to be seconds from 0 up, or None"
    if (usage := response.usage) is not None and min(usage.input_tokens, usage.output_tokens) < 0:
        return f"the usage is below 0: {usage}"
    return None


def _storable(value: Any) -> bool:
    try:
        return bool(value.encode() or value == "")
    except (AttributeError, UnicodeEncodeError):
        return False
