"""Rows of tables as simple lines of JSON, so that all that follows reads only lines.

It does not judge the lines it makes; `models.formats.lines` does, as it would if they had been written by hand.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from models.errors import InputError, UsageError
from models.formats.fields import Refused
from submit.encodings import WAY_OUT

IDS = ("id", "custom_id")
NAMED = ("model", "provider", "route", "system", "max_tokens")
"""Columns that mean what the field of a simple line means, unless the template uses them."""
UNFILLED = ("temperature",)
"""Such columns of a table that no template fills: beside one they are often data."""

LARGEST_ROW = 16 * 1024 * 1024
"""Most characters of a row. A sheet's cell holds 32,767; a reader of CSV takes 4 bytes for each character of a cell."""

Row = Sequence[Any] | Refused | int | None
"""A row's cells, in the order of the columns; why it can't be read; None for a line that is no row, or the number of such lines."""

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """A text with columns in it: `Translate: {text}`. Literal braces are doubled. Raises UsageError."""

    def __init__(self, text: str) -> None:
        pieces: list[str] = []
        columns: list[str] = []
        at = 0
        literal = ""
        for token in _TOKEN.finditer(text):
            literal += text[at : token.start()]
            at = token.end()
            if token[1] is not None:
                pieces.append(literal)
                columns.append(token[1])
                literal = ""
            elif len(token[0]) == 2:
                literal += token[0][0]
            else:
                raise UsageError(
                    f"the template has a single {token[0]} at character {token.start() + 1}: write {token[0] * 2} for a "
                    "brace, or {column} for a column"
                )
        self._literals = [*pieces, literal + text[at:]]
        self.columns = tuple(columns)
        if not columns:
            raise UsageError("the template names no column: write it with columns in braces, as in 'Translate: {text}'")

    def fill(self, values: Sequence[Any]) -> str:
        """Returns the text for the values of `columns`; a cell without a value is the empty text."""
        filled = [self._literals[0]]
        for value, literal in zip(values, self._literals[1:], strict=True):
            filled += (as_text(value), literal)
        return "".join(filled)


class CellError(str):
    """A cell that holds an error of its spreadsheet, such as #REF!."""


class Lines:
    """A stream of simple lines, one a row: with the row's number as the line's, a header being line 1.

    A row whose cells in the template are all empty has the prompt "", unless `ask_empty`: then the template is filled all the same.
    Raises InputError for columns that aren't there or stand twice.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Iterator[Row],
        template: Template | None,
        name: str,
        *,
        ask_empty: bool = False,
    ) -> None:
        self._names = names
        self._rows = rows
        self._template = template
        self._ask_empty = ask_empty
        place = _places(names, name)
        there = f"{name} has the columns {escaped(', '.join(names))}"
        self._question = "prompt"
        if template is None:
            asks = [column for column in ("prompt", "messages") if column in place]
            if not asks:
                raise InputError(
                    f"{there}, and none named prompt: specify the prompt with --template, as in 'Translate: {{text}}'{_near('prompt', names)}"
                )
            self._question = asks[0]
        used = template.columns if template else (self._question,)
        missing = next((column for column in used if column not in place), None)
        if missing is not None:
            raise InputError(f"the template's column {missing!r} isn't there: {there}{_near(missing, names)}")
        self._used = [place[column] for column in used]
        fields = (*NAMED, *(() if template else UNFILLED))
        self._own = [
            (column, place[column])
            for column in (*IDS, *fields)
            if column in place and (column in IDS or column not in used)
        ]
        taken = {column for column, _ in self._own} | set(() if template else used)
        self._carried = [(column, at) for column, at in place.items() if column not in taken]

    def readline(self, size: int = -1, /) -> bytes:
        """Returns the next row as a line; a line break for a row that is none; nothing at the end. Raises Refused for a bad row."""
        try:
            row = next(self._rows)
        except StopIteration:
            return b""
        if row is None or isinstance(row, int):
            return b"\n" * (row or 1)
        if isinstance(row, Refused):
            raise row
        line: dict[str, Any] = {}
        for column, at in self._own:
            if not is_blank(value := row[at]):
                line[column] = _field(column, value)
        line[self._question] = self._asked(row)
        if self._carried:
            line["metadata"] = {
                column: row[at] for column, at in self._carried if row[at] != "" or not _UNNAMED.fullmatch(column)
            }
        try:
            made = orjson.dumps(line, _plain, orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        except TypeError as error:
            raise Refused(self._why_not_text(row) or str(error)) from None
        if len(made) > 4 * LARGEST_ROW:
            raise Refused(f"longer than {4 * LARGEST_ROW // 1024 // 1024} MB")
        return made

    def _asked(self, row: Sequence[Any]) -> Any:
        values = [row[at] for at in self._used]
        for at, value in zip(self._used, values, strict=True):
            if isinstance(value, CellError):
                raise Refused(f"the column {escaped(repr(self._names[at]))} holds the error {value}")
        if self._template is not None:
            return "" if not self._ask_empty and all(map(is_blank, values)) else self._template.fill(values)
        if self._question == "messages":
            return _messages(values[0])
        return "" if is_blank(values[0]) else as_text(values[0])

    def _why_not_text(self, row: Sequence[Any]) -> str | None:
        for column, cell in zip(self._names, row, strict=False):
            if isinstance(cell, str) and any("\ud800" <= character <= "\udfff" for character in cell):
                return f"the column {escaped(repr(column))} is not UTF-8: {WAY_OUT}"
        return None


_UNNAMED = re.compile(r"column-\d+")


def named(header: Sequence[Any], name: str) -> list[str]:
    """Returns the names of a table's columns; `column-3` for one without. Raises InputError for what is not UTF-8."""
    names = [as_text(cell).strip() for cell in header]
    if any("\udc80" <= character <= "\udcff" for cell in names for character in cell):
        raise InputError(f"{name}: the header is not UTF-8: {WAY_OUT}")
    return [cell or f"column-{number}" for number, cell in enumerate(names, 1)]


def _places(names: Sequence[str], name: str) -> dict[str, int]:
    """Returns each column's place. Raises InputError for one that stands twice."""
    place: dict[str, int] = {}
    for at, column in enumerate(names):
        if place.setdefault(column, at) != at:
            raise InputError(
                f"{name}: the column {escaped(repr(column))} stands twice in the header, in columns {place[column] + 1} and {at + 1}: "
                "rename one of them"
            )
    return place


def _near(wanted: str, names: Sequence[str]) -> str:
    """Returns a hint at a column that is written almost like `wanted`."""
    found = next((column for column in names if column.strip().casefold() == wanted.strip().casefold()), None)
    return "" if found is None else f" (upper and lower case count: {escaped(repr(found))} is there)"


def without_blank_end(rows: Iterator[Row]) -> Iterator[Row]:
    """Yields the rows up to the last that holds anything; sheets leave rows of separators for deleted ones behind it."""
    waiting: list[tuple[Sequence[Any] | None, int]] = []  # what came since then, and how often
    kind: Sequence[Any] | None
    for row in rows:
        if row is None or isinstance(row, int):
            if not waiting:
                yield row
                continue
            kind, times = None, row or 1
        elif not isinstance(row, Refused) and all(map(is_blank, row)):
            kind, times = row, 1
        else:
            for held, often in waiting:
                yield from [often] if held is None else itertools.repeat(held, often)
            waiting.clear()
            yield row
            continue
        if waiting and (waiting[-1][0] is None) == (kind is None):
            times += waiting.pop()[1]
        waiting.append((kind, times))


def is_blank(value: object) -> bool:
    """Returns whether a cell holds nothing: no value, NaN (a number that is missing) or only white space."""
    if type(value) is str:
        return not value or value.isspace()
    return value is None or value != value  # noqa: PLR0124


def _field(column: str, value: object) -> object:
    """Returns a cell as the field of a simple line: numbers, which many tools write as 5.0 or as text, as what they are."""
    if column in IDS:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    if column not in ("max_tokens", *UNFILLED):
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
        return int(number) if number.is_integer() else number
    except (TypeError, ValueError, OverflowError):
        return value


def _messages(value: object) -> object:
    """Returns a cell of messages without the empty fields that a typed table gives to all of them; text is read as JSON."""
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    if not isinstance(value, list):
        return value
    return [
        {name: held for name, held in message.items() if held is not None} if isinstance(message, dict) else message
        for message in value
    ]


def escaped(text: str, most: int = 500) -> str:
    """Returns text as it may stand in a message: control characters escaped, cut where a file puts too much into it."""
    short = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def as_text(value: object) -> str:
    """Returns a cell as it stands in a prompt."""
    if type(value) is str:
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN stands for a missing number
        return ""
    plain = orjson.dumps(value, _plain, orjson.OPT_NON_STR_KEYS)
    decoded = orjson.loads(plain)
    return decoded if isinstance(decoded, str) else plain.decode()


def _plain(value: object) -> str:
    """What JSON has no form for: bytes as their text, else in base64; anything else as Python writes it."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)
