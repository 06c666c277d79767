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
    try:
        _check(provider.read(request, reply), reply.status)
    except AssertionError:
        raise
    except Exception as error:
        told = f"{reply.status} {dict(reply.headers)} {reply.body[:300]!r}"
        raise AssertionError(f"a reply made reading raise {type(error).__name__}: {told}") from error


def _check(response: Response, status: int) -> None:
    """What must hold for every response, whatever came."""
    assert response.http_code == status
    if status >= 300:
        assert response.failure is not None
    for text in (response.text, response.finish_reason, response.served_model, response.request_id):
        assert text is None or text.encode() is not None
    if response.failure is not None:
        assert response.failure.message.isprintable()
        assert response.failure.code
        for wait in (response.failure.retry_after, response.failure.resets_in):
            assert wait is None or 0 <= wait < float("inf")
    if response.usage is not None:
        assert min(response.usage.input_tokens, response.usage.output_tokens) >= 0
