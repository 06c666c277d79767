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
from models.formats import claude, datasets, gemini, openai, simple
from models.formats.beside import beside
from models.formats.defaults import Defaults, Filler
from models.formats.draft import Draft
from models.formats.emptiness import asks_nothing
from models.formats.fields import Refused, show
from models.formats.ids import SeenIds
from models.formats.parameters import refusal, unknown, with_whole_numbers
from models.formats.reading import (
    AS_WRITTEN,
    EMBEDDINGS,
    EMPTY,
    EmptyPrompts,
    Note,
    Reading,
    SkippedLine,
    UnknownFields,
)
from models.lanes import Lanes, NoLane
from models.request import EMBEDDINGS as OF_EMBEDDINGS

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
    `notes` are what was done to the line before it became a body.
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
    notes: tuple[Note, ...] = ()


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
    reading: Reading = AS_WRITTEN,
) -> Iterator[Line | BadLine | SkippedLine]:
    """Yields each line of `stream` that isn't blank, in order. A stream without such lines yields nothing.

    `model` is asked for instead of every line's own. `provider` and `route` are for lines that name neither, also where the model
    is written as `provider/model`. After `limit` lines (blank and skipped ones not counted) reading stops. `defaults` are filled into
    simple lines. `alone`: a route stands for its first candidate. With `keep_bad` a bad line is a Line too, `refused`, under its
    own id where that can be read and isn't taken. `reading` holds the choices for empty prompts and the like; without one, lines are taken as they are written.
    """
    reader = _Reader(lanes, model, provider, route, defaults.filler(), alone, keep_bad, reading)
    number = taken = 0
    while limit is None or taken < limit:
        number += 1
        try:
            line = stream.readline(MAX_LINE + 1)
        except Refused as refused:  # what makes the lines of a table couldn't make this one
            taken += 1
            yield reader.bad(number, str(refused))
            continue
        if not line:
            return
        judged: Line | BadLine | SkippedLine
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            _skip_rest(stream)
            judged = reader.bad(number, f"longer than {MAX_LINE // 1024 // 1024} MB")
        else:
            breaks = line.count(b"\n") if line[:1].isspace() else 1
            line = line.removeprefix(_BOM).strip()
            if not line:
                number += max(breaks, 1) - 1  # a stream may return many blank lines together
                continue
            judged = reader.judge(line, number)
        taken += not isinstance(judged, SkippedLine)
        del line  # a 50 MB line must not be held twice while the next one is read
        yield judged
        del judged


class _Reader:
    """Judges the lines of one input, one after the other."""

    def __init__(
        self,
        lanes: Lanes,
        model: str | None,
        provider: str | None,
        route: str | None,
        filler: Filler | None,
        alone: bool,
        keep_bad: bool,
        reading: Reading,
    ) -> None:
        self._lanes = lanes
        self._model = model
        self._provider = provider
        self._route = route
        self._filler = filler
        self._alone = alone
        self._keep_bad = keep_bad
        self._reading = reading
        self._seen = SeenIds()

    def judge(self, line: bytes, number: int) -> Line | BadLine | SkippedLine:
        row = named = custom_id = None
        dialect: ModuleType = simple
        notes: list[Note] = []
        try:
            row = _decode(line)
            dialect = _dialect_of(row)
            custom_id = dialect.identify(row) or f"line-{number}"
            if dialect is simple:
                row, line = self._as_asked(row, line, notes)
            is_empty = asks_nothing(dialect.asked(row))
            if is_empty and self._reading.empty_prompts is EmptyPrompts.SKIP:
                return SkippedLine(number)
            earlier = self._seen.first_line(custom_id, number)
            if earlier is not None:
                raise Refused(f"duplicate id {show(custom_id)}: line {earlier} has it too")
            named = custom_id
            draft = dialect.read(row, line)
            if is_empty:
                if self._reading.empty_prompts is EmptyPrompts.FAIL:
                    raise Refused(_EMPTY)
                notes.append(EMPTY)
            lane, asked = self._resolve(draft, dialect)
            body = draft.body if dialect is not simple else self._checked_fields(row, draft, lane, notes)
        except (Refused, NoLane) as refused:
            if named is None and custom_id is not None and self._seen.first_line(custom_id, number) is None:
                named = custom_id
            body = line if row is not None and dialect is simple else b""
            metadata = None if row is None or dialect is simple else beside(row, line, dialect.own(row))
            return self.bad(number, str(refused), named, dialect.DIALECT, body, metadata)
        if self._filler and dialect is simple and draft.operation == "chat":
            body = self._filler.fill(row, body)
        return Line(
            number,
            custom_id,
            dialect.DIALECT,
            draft.operation,
            lane,
            asked,
            body,
            metadata=draft.metadata,
            notes=tuple(notes),
        )

    def bad(
        self,
        number: int,
        reason: str,
        named: str | None = None,
        dialect: str = simple.DIALECT,
        body: bytes = b"",
        metadata: bytes | None = None,
    ) -> Line | BadLine:
        if not self._keep_bad:
            return BadLine(number, reason)
        free = f"line-{number}"
        while named is None:
            named, free = (free if self._seen.first_line(free, number) is None else None), f"{free}-bad"
        return Line(number, named, dialect, "chat", "", "", body, reason, metadata)

    def _as_asked(self, row: dict[str, Any], line: bytes, notes: list[Note]) -> tuple[dict[str, Any], bytes]:
        """Returns a line that isn't in a vendor's form as the simple line that it stands for. Raises Refused."""
        made = datasets.as_simple(row, line)
        if made is not None:
            row, line, note = made
            notes.append(note)
        line = with_whole_numbers(row, line)
        if row.get(simple.EMBED) is None and (embedder := self._embedder(row)):
            embedding = datasets.as_embedding(row, line, embedder)
            if embedding is not None:
                notes.append(EMBEDDINGS)
                return embedding
        row, line, last = datasets.without_last_answer(row, line, self._reading.last_answer, dataset=made is not None)
        if last is not None:
            notes.append(last)
        return row, line

    def _embedder(self, row: Mapping[str, Any]) -> str | None:
        """The embedding model that a line asks; None for any other."""
        model = self._model or row.get("model")
        route = row.get("route") or (None if row.get("provider") else self._route)
        models = self._lanes.models_of(route) if type(route) is str else (model,)
        if all(type(one) is str and datasets.makes_embeddings(one) for one in models):
            return models[0] if models else None
        return None

    def _resolve(self, draft: Draft, dialect: ModuleType) -> tuple[str, str]:
        wanted = self._model or draft.model
        own_lane = draft.provider is not None or draft.route is not None
        return self._lanes.resolve(
            model=wanted if own_lane else self._lanes.name_at(self._provider, wanted),
            provider=draft.provider if own_lane else self._provider,
            route=draft.route if own_lane else self._route,
            dialect=dialect.DIALECT,
            operation=draft.operation,
            alone=self._alone,
        )

    def _checked_fields(self, row: Mapping[str, Any], draft: Draft, lane: str, notes: list[Note]) -> bytes:
        """Returns the simple line with its unknown fields where they were chosen to be. Raises Refused."""
        names = unknown(row, embeds=draft.operation == OF_EMBEDDINGS)
        if not names or self._lanes.has_plugin(lane):  # a plugin takes what it likes, and refuses the rest
            return draft.body
        choice = self._reading.unknown_fields
        if choice is UnknownFields.FAIL:
            raise Refused(refusal(names))
        notes += [Note(str(choice), show(name, 40)) for name in names]
        return draft.body if choice is UnknownFields.SEND else simple.with_metadata(row, draft.body, names)


def _skip_rest(stream: BinaryIO) -> None:
    while (chunk := stream.readline(_BUFFER)) and not chunk.endswith(b"\n"):
        pass


_EMPTY = (
    "the prompt is empty, so that nothing would be asked: --empty-prompts skip leaves such lines out, --empty-prompts ask asks "
    "them all the same"
)


def _dialect_of(row: Mapping[str, Any]) -> ModuleType:
    if openai.recognises(row):
        return openai
    if claude.recognises(row):
        return claude
    return gemini if gemini.recognises(row) else simple


def _decode(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise Refused(_why_not_json(line, error)) from None
    if type(row) is not dict:
        what = {list: "an array", str: "a bare string", type(None): "null"}.get(type(row), "a bare value")
        raise Refused(f'{what}: each line must be one JSON object, such as {{"prompt": "…"}}')
    if line.count(b"{") + line.count(b"[") > MAX_DEPTH and _is_deeper(row, MAX_DEPTH):
        raise Refused(_TOO_DEEP)
    return cast(dict[str, Any], row)


_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"


def _why_not_json(line: bytes, error: orjson.JSONDecodeError) -> str:
    if b"\0" in line:
        if line.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
            return "is compressed once more: unpack the file, and submit what is in it"
        return "holds NUL bytes; is the file UTF-16 or damaged? Save it as UTF-8"
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as wrong:
        if line[wrong.start] == 0xED and line[wrong.start + 1 : wrong.start + 2] >= b"\xa0":
            return f"a lone surrogate at byte {wrong.start + 1}, which is not UTF-8"
        return f"not UTF-8: byte 0x{line[wrong.start]:02x} at byte {wrong.start + 1}; save the file as UTF-8, or name its encoding with --encoding"
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
    return f"not JSON: {_not_json(line.decode()[error.colno - 1 :], error)}"


_OBJECT = 'each line must be one JSON object, such as {"prompt": "…"}'
_CONSTANTS = {"NaN": "null", "Infinity": "null", "-Infinity": "null", "None": "null", "True": "true", "False": "false"}


def _not_json(rest: str, error: orjson.JSONDecodeError) -> str:
    """Returns why a text is no JSON, and what would be. `rest` begins where the reader gave up."""
    if error.colno == 1:
        if rest.startswith(("#", "//")):
            return "a comment, which JSON doesn't have: delete the line"
        return f"{_OBJECT}; `jq -Rc '{{prompt: .}}' FILE` makes one of each line of plain text"
    where = f"(column {error.colno})"
    if "after document" in error.msg:
        if rest.strip() == ",":
            return f"a comma behind the object {where}: JSON lines have none"
        if "\r" in error.doc[: error.colno]:
            return f"more than one value in a line {where}: if the file's lines end with CR alone, `tr '\\r' '\\n' < FILE` mends them"
        return f"more than one value in a line {where}: {_OBJECT}, as `jq -c . FILE` writes them"
    if rest.startswith("'"):
        return f"texts stand in double quotes, not in single ones {where}; Python writes JSON with `json.dumps`"
    for name, json_name in _CONSTANTS.items():
        if rest.startswith(name):
            return f"{name} isn't a value of JSON {where}: write {json_name}"
    return f"{error.msg} {where}"


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
