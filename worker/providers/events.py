"""Server-sent events: the bytes of a streamed reply as a list of events.

It does not know what an event means; each dialect does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from worker.providers.base import Reply
from worker.providers.replies import decode


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (`message` where the server gave none) and its data lines, joined."""

    name: str
    data: str


def is_event_stream(reply: Reply, asked: bool) -> bool:
    """Whether a reply is a stream. `asked`: the call asked for one, so a missing content type may be excused."""
    if reply.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return True
    return asked and reply.body.lstrip(b"\xef\xbb\xbf \r\n").startswith((b"data:", b"event:", b":", b"id:", b"retry:"))


def read_events(body: bytes) -> Iterator[Event]:
    """The events of a stream in order.

    A last event without its blank line is handed out too: many servers end so. Bytes that aren't UTF-8 become U+FFFD.
    """
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    name = ""
    data: list[str] = []
    # Not splitlines(): that also breaks at U+2028 and others, which JSON strings may hold.
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if not line:
            if data:
                yield Event(name or "message", "\n".join(data))
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif field == "event":
            name = value.removeprefix(" ")
    if data:
        yield Event(name or "message", "\n".join(data))


class Chunks:
    """What a stream's events hold, as JSON, with their names and in order: (name, value), up to a `[DONE]`.

    `done` says that one came, `broken` that the data of an event was no JSON: then a piece of the answer is missing.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self.done = False
        self.broken = False

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for event in self._events:
            text = event.data.strip()
            if text == "[DONE]":
                self.done = True
                return
            value = decode(text.encode())
            self.broken |= value is None and text not in ("", "null")
            yield event.name, value


def is_idle(chunk: bytes) -> bool:
    """Whether a piece of a stream holds nothing but keep-alives: comments, pings, blank lines."""
    if len(chunk) > 200:
        return False
    for line in chunk.split(b"\n"):
        line = line.strip()
        if not line or line.startswith((b":", b"event: ping", b"event:ping")):
            continue
        if not line.startswith(b"data:") or not _is_ping(line[5:]):
            return False
    return True


def _is_ping(data: bytes) -> bool:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and value.get("type") == "ping"
