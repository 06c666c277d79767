"""What every dialect needs to read a reply that may hold anything: JSON that may be none, fields that may be missing or of a wrong type.

It does not judge: which kind of failure a reply is, the dialects and `failures` say.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from worker.providers.base import Reply

_LARGEST_COUNT = 10**8
"""Ten times what any model reads or writes in a call. A count above it is nonsense: it would be a bill of its own, and shut limits."""

_YEAR_2100 = 4102444800


BOM = b"\xef\xbb\xbf"


def decode(body: bytes) -> Any:
    """The body as JSON, or None when it isn't JSON. A byte order mark before it means nothing."""
    body = body.removeprefix(BOM)
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    # A lone surrogate is legal in JSON's grammar and comes from models that cut an emoji; servers in Python write NaN and Infinity,
    # as log probabilities: such answers were paid for.
    if b"\\u" not in body and not has_constant(body):
        return None
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_nothing)
    except (ValueError, RecursionError):
        return None


_CONSTANT = re.compile(rb"[\[:,\s]-?(?:NaN|Infinity)\s*[,\]}]")


def has_constant(body: bytes) -> bool:
    """Returns whether a body seems to hold a number that isn't one: `NaN`, `Infinity`, which JSON doesn't have. They are read as null."""
    return _CONSTANT.search(body) is not None


def is_json(body: bytes) -> bool:
    """Returns whether a body is JSON in the standard's sense."""
    try:
        orjson.loads(body)
    except ValueError:
        return False
    return True


def _nothing(_: str) -> None:
    return None


def encode(value: Any) -> bytes:
    """JSON bytes of a value that was decoded or built here; lone surrogates and huge integers survive."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def at(value: Any, *path: str | int) -> Any:
    """What lies at `path` inside decoded JSON; None where the path breaks off."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step) if isinstance(step, str) else None
        elif isinstance(value, list) and not isinstance(step, str) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return None
    return value


def table(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """The objects in a list; nothing when it is no list."""
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, dict))


def told_count(value: Any) -> int | None:
    """A token count; None for what can't be one. Gemini's 64-bit integers may come as text."""
    if type(value) is int and 0 <= value <= _LARGEST_COUNT:
        return value
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_COUNT:
        return value
    return None


def count(value: Any) -> int:
    """A token count; 0 for what can't be one."""
    return told_count(value) or 0


def storable(text: str) -> str:
    """The text without lone surrogates, which no database and no UTF-8 file takes: they become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def name(value: Any, limit: int = 200) -> str | None:
    """A short printable text, such as an id or a model's name; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    short = storable(value)[:limit]
    return short if short.isprintable() else "".join(c for c in short if c.isprintable()) or None


def seconds(value: Any) -> float | None:
    """A finite number of seconds, not below 0, from a number or its text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return max(0.0, number) if math.isfinite(number) else None


def http_date(text: str | None) -> float | None:
    """Unix seconds of an HTTP date, None when it is none or lies outside of 1970 to 2100."""
    if not text:
        return None
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
    return moment if 0 <= moment < _YEAR_2100 else None


def reply_time(reply: Reply) -> float:
    """Unix seconds at which the server answered, by its own clock where it told, so that our clock may be wrong."""
    told = http_date(reply.headers.get("date"))
    return time.time() if told is None else told
