"""Server-sent events: the bytes of a streamed reply as a list of events.

It does not know what an event means; each dialect does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from worker.providers.base import Reply
from worker.providers.replies import decode

NAMELESS = {"type": "stream_error"}
"""The error of an event that is named so and holds nothing that can be read."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name (`message` where the server gave none) and its data lines, joined."""

    name: str
    data: str


def is_event_stream(reply: Reply, asked: bool) -> bool:
    """Returns whether a reply is a stream. `asked`: the call asked for one, so a missing content type may be excused. A body that is
    JSON from its first byte is none, whatever its content type: gateways put errors into the stream's reply so."""
    if reply.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return not reply.body.lstrip(b"\xef\xbb\xbf \r\n").startswith((b"{", b"["))
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


def read_values(body: bytes) -> list[Event]:
    """Returns the JSON objects of a body that holds several, in order, as events: one a line, one behind the other, or in an array
    that may be cut. Servers send streams so that leave server-sent events out, Gemini's among them. The last event is what can't be
    read, if there is such a rest. Empty where the body begins with anything but an object.
    """
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    decoder = json.JSONDecoder()
    events: list[Event] = []
    position = 0
    while (position := _BETWEEN.match(text, position).end()) < len(text):  # type: ignore[union-attr]  # it matches nothing, too
        try:
            if text[position] != "{":
                raise ValueError
            _, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            return [*events, Event("message", text[position:])] if events else []
        events.append(Event("message", text[position:end]))
        position = end
    return events


_BETWEEN = re.compile(r"(?:\[DONE\]|[\s,\[\]])*")


class Chunks:
    """What a stream's events hold, as JSON, with their names and in order: (name, value), up to a `[DONE]`, and usage behind it.

    `done` is set by a `[DONE]`. `broken` is set where the data of an event is no JSON and may have been a piece of the answer;
    `skipped` where it can't have been one. Read both after the last event.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._events = events
        self._unread: list[Event] = []
        self._fields: set[str] = set(_COMMON_FIELDS)
        self._samples = _SAMPLES
        self.done = False

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for event in self._events:
            text = event.data.strip()
            if text == "[DONE]":
                self.done = True
                continue
            value = decode(text.encode())
            if self.done:  # nothing more of the answer, but some servers count only then
                if isinstance(value, dict) and value.get("usage"):
                    yield event.name, {"usage": value["usage"]}
                continue
            if value is None and text not in ("", "null"):
                self._unread.append(event)
            elif self._samples:
                self._samples -= 1
                _note_fields(value, self._fields)
            yield event.name, value

    @property
    def broken(self) -> bool:
        return any(self._may_matter(event) for event in self._unread)

    @property
    def skipped(self) -> bool:
        return bool(self._unread) and not self.broken

    def _may_matter(self, event: Event) -> bool:
        """Whether an event that can't be read may be what is left of one of this stream's own.

        It is none if it can be neither the beginning nor the end of a JSON object like the others: it names none of their fields,
        doesn't begin like one of them, and closes no bracket that it hasn't opened.
        """
        text = event.data.strip().removeprefix("\ufeff")
        if event.name in _EMPTY_EVENTS:
            return False
        named = _FIELD.findall(text)
        if text.count('":') > len(named) or not self._fields.isdisjoint(named):
            return True
        if (begun := _BEGINNING.fullmatch(text)) and any(field.startswith(begun[1] or "") for field in self._fields):
            return True
        return text.endswith(("}", "]")) and any(text.count(left) != text.count(right) for left, right in ("{}", "[]"))


_EMPTY_EVENTS = {"ping", "keep-alive", "keepalive", "heartbeat"}
_FIELD = re.compile(r'"(\w+)"\s*:')
_BEGINNING = re.compile(r'[\[{\s]+(?:"(\w*)"?\s*)?')
"""JSON cut before its first field is whole."""
_COMMON_FIELDS = frozenset(
    [
        "id",
        "object",
        "created",
        "model",
        "choices",
        "index",
        "delta",
        "content",
        "text",
        "role",
        "finish_reason",
        "tool_calls",
        "function",
        "arguments",
        "type",
        "candidates",
        "parts",
        "output",
        "response",
        "usage",
    ]
)
_SAMPLES = 20
"""The events of a stream are alike: so many show the fields that they have."""
_DEPTH = 8


def _note_fields(value: Any, fields: set[str], depth: int = _DEPTH) -> None:
    """Adds the names of all fields in decoded JSON."""
    if depth and isinstance(value, dict):
        fields.update(value)
        for inner in value.values():
            _note_fields(inner, fields, depth - 1)
    elif depth and isinstance(value, list):
        for inner in value:
            _note_fields(inner, fields, depth - 1)


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
