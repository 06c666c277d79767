"""Input files, read line by line: each line becomes a Line or a BadLine with its number and a reason.

It does not store anything and needs no server; memory doesn't grow with the file, except for 18 to 36 bytes a line in which the
ids seen so far are kept.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, BinaryIO, cast

import orjson

from models.errors import BadLine, InputError
from models.formats import claude, gemini, openai, simple
from models.formats.beside import beside
from models.formats.defaults import Defaults
from models.formats.fields import Refused, show
from models.formats.ids import SeenIds
from models.lanes import Lanes, NoLane

MAX_LINE = 64 * 1024 * 1024
"""Longest line in bytes. Providers take far less; without a bound one file without line breaks would fill the memory."""
MAX_DEPTH = 200
"""Deepest nesting of arrays and objects. Real requests stay below 50, and JSON writers give up from 254 on."""

_BUFFER = 1024 * 1024
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """One input line that can become a job.

    `number` counts from 1, blank lines included. `custom_id` is the user's own id, else `line-<number>`. `lane` is a provider's
    id or a route's name. `model` is what the provider is asked for; "" on a route whose candidates name it. `body` is the whole
    line (simple) or the value of its `body` (openai), `params` (claude) or `request` (gemini), byte for byte; its `model` may
    differ from ours, see `openai.with_model`. `refused` is why it can't become a job after all: then it has no lane, and a body
    only where that could be read. `metadata` is what stands beside a vendor's body, as JSON; a simple line's body holds its own.
    """

    number: int
    custom_id: str
    dialect: str
    operation: str
    lane: str
    model: str
    body: bytes = field(repr=False)
    refused: str | None = None
    metadata: bytes | None = field(repr=False, default=None)


def open_input(path: str) -> BinaryIO:
    """The file at `path` for `read_lines`; "-" is stdin, which closing the result leaves open. Raises InputError."""
    try:
        if path != "-":
            return open(path, "rb", buffering=_BUFFER)
        return open(sys.stdin.fileno(), "rb", buffering=_BUFFER, closefd=False)
    except io.UnsupportedOperation:  # a stdin that was replaced by an object in memory
        return cast(BinaryIO, sys.stdin.buffer)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from None


def read_lines(
    stream: BinaryIO,
    lanes: Lanes,
    *,
    model: str | None = None,
    provider: str | None = None,
    route: str | None = None,
    limit: int | None = None,
    defaults: Defaults = Defaults(),  # noqa: B008 - frozen
    alone: bool = False,
    keep_bad: bool = False,
) -> Iterator[Line | BadLine]:
    """Each line of `stream` that isn't blank, in order. A stream without such lines yields nothing.

    `model` is asked for instead of every line's own. `provider` and `route` are for lines that name neither, also where the model
    is written as `provider/model`. After `limit` lines (blank ones not counted) reading stops. `defaults` are filled into simple
    lines. `alone`: a route stands for its first candidate. With `keep_bad` a bad line is a Line too, `refused`, under its own id
    where that can be read and isn't taken.
    """
    seen = SeenIds()
    filler = defaults.filler()

    def judge(line: bytes, number: int) -> Line | BadLine:
        row = named = None
        dialect: ModuleType = simple
        try:
            row = _decode(line)
            dialect = _dialect_of(row)
            custom_id = dialect.identify(row) or f"line-{number}"
            earlier = seen.first_line(custom_id, number)
            if earlier is not None:
                raise Refused(f"duplicate id {show(custom_id)}: line {earlier} has it too")
            named = custom_id
            draft = dialect.read(row, line)
            wanted = model or draft.model
            own_lane = draft.provider is not None or draft.route is not None
            lane, asked = lanes.resolve(
                model=wanted if own_lane else lanes.name_at(provider, wanted),
                provider=draft.provider if own_lane else provider,
                route=draft.route if own_lane else route,
                dialect=dialect.DIALECT,
                operation=draft.operation,
                alone=alone,
            )
        except (Refused, NoLane) as refused:
            body = line if row is not None and dialect is simple else b""
            metadata = None if row is None or dialect is simple else beside(row, line, dialect.OWN)
            return bad(number, str(refused), named, dialect.DIALECT, body, metadata)
        fills = filler is not None and dialect is simple and draft.operation == "chat"
        body = filler.fill(row, draft.body) if filler and fills else draft.body
        return Line(number, custom_id, dialect.DIALECT, draft.operation, lane, asked, body, metadata=draft.metadata)

    def bad(
        number: int,
        reason: str,
        named: str | None = None,
        dialect: str = simple.DIALECT,
        body: bytes = b"",
        metadata: bytes | None = None,
    ) -> Line | BadLine:
        if not keep_bad:
            return BadLine(number, reason)
        free = f"line-{number}"
        while named is None:
            named, free = (free if seen.first_line(free, number) is None else None), f"{free}-bad"
        return Line(number, named, dialect, "chat", "", "", body, reason, metadata)

    number = taken = 0
    while limit is None or taken < limit:
        number += 1
        try:
            line = stream.readline(MAX_LINE + 1)
        except Refused as refused:  # what makes the lines of a table couldn't make this one
            taken += 1
            yield bad(number, str(refused))
            continue
        if not line:
            return
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            _skip_rest(stream)
            judged = bad(number, f"longer than {MAX_LINE // 1024 // 1024} MB")
        else:
            breaks = line.count(b"\n") if line[:1].isspace() else 1
            line = line.removeprefix(_BOM).strip()
            if not line:
                number += max(breaks, 1) - 1  # a stream may return many blank lines together
                continue
            judged = judge(line, number)
        taken += 1
        del line  # a 50 MB line must not be held twice while the next one is read
        yield judged
        del judged


def _skip_rest(stream: BinaryIO) -> None:
    while (chunk := stream.readline(_BUFFER)) and not chunk.endswith(b"\n"):
        pass


def _dialect_of(row: Mapping[str, Any]) -> ModuleType:
    if openai.recognises(row):
        return openai
    if claude.recognises(row):
        return claude
    return gemini if gemini.recognises(row) else simple


def _decode(line: bytes) -> Mapping[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Refused(_why_not_json(line, error)) from None
    if type(row) is not dict:
        what = {list: "an array", str: "a bare string", type(None): "null"}.get(type(row), "a bare value")
        raise Refused(f'{what}: each line must be one JSON object, such as {{"prompt": "…"}}')
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _is_deeper(row, MAX_DEPTH):
        raise Refused(_TOO_DEEP)
    return cast(Mapping[str, Any], row)


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _why_not_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    if b"\0" in line:
        return "holds NUL bytes; is the file UTF-16 or damaged? Save it as UTF-8"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        if line[wrong.start] == 0xED and line[wrong.start + 1 : wrong.start + 2] >= b"\xa0":
            return f"a lone surrogate at byte {wrong.start + 1}, which is not UTF-8"
        return f"not UTF-8: byte 0x{line[wrong.start]:02x} at byte {wrong.start + 1}; save the file as UTF-8"
    message = error.msg.lower()
    if "surrogate" in message:
        return f"a lone surrogate escape (\\ud800 to \\udfff) near column {error.colno}: half a character, providers reject it"
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and (
        "depth" in message or "recursion" in message or "memory" in message
    ):
        return _TOO_DEEP
    if "unexpected end" in message:
        if line[:1] == b"[":
            return "not JSON: an array that doesn't end on this line; each line must be one JSON object"
        return "truncated: the JSON ends in the middle (an object must stand on one line)"
    if "infinity" in message:
        return f"not JSON: a number too big for any reader at column {error.colno}"
    return f"not JSON: {error.msg} (column {error.colno})"


def _is_deeper(value: object, limit: int) -> bool:
    """Whether arrays and objects nest more than `limit` levels. Its own stack: nesting can't exhaust Python's."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True
