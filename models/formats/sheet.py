"""Results as CSV: a row a job, with the fields of a simple result and a column for each field of the metadata.

It does not open files; `submit.exports` does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

import msgspec

from models.formats import simple
from models.formats.outcome import Outcome

OWN = (
    "id",
    "status",
    "text",
    "tool_calls",
    "error_code",
    "error_message",
    "provider",
    "key_id",
    "requested_model",
    "served_model",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost",
    "currency",
    "latency_ms",
    "attempts",
)
REST = "metadata"
"""The last column: metadata for which there is no column, as JSON."""


class Sheet:
    """One file's columns and rows. `first` is the metadata of the first lines, as JSON (empty: none): it gives the columns."""

    def __init__(self, first: Iterable[bytes]) -> None:
        fields: dict[str, None] = {}
        for told in first:
            metadata = msgspec.json.decode(told) if told else None
            if isinstance(metadata, dict):
                fields.update(dict.fromkeys(metadata))
        self._carried = tuple(fields)
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")

    def header(self) -> bytes:
        """The first line. A field of the metadata that is called like one of ours is `metadata.<name>`."""
        ours = {*OWN, REST}
        carried = [f"{REST}.{field}" if field in ours else field for field in self._carried]
        return self._line([*OWN, *carried, REST])

    def row(self, outcome: Outcome) -> bytes:
        """One job, line break included; a text may hold others, in quotes."""
        result: dict[str, Any] = msgspec.json.decode(simple.result(outcome), type=dict[str, msgspec.Raw])
        error = msgspec.json.decode(result["error"]) or {}
        result["error_code"], result["error_message"] = (
            msgspec.Raw(msgspec.json.encode(error.get(field))) for field in ("code", "message")
        )
        result.setdefault("tool_calls", msgspec.Raw(b"null"))
        metadata = msgspec.json.decode(result[REST])
        rest = metadata
        carried: list[str] = [""] * len(self._carried)
        if isinstance(metadata, dict):
            carried = [_cell(metadata.pop(field, None)) for field in self._carried]
            rest = metadata or None
        return self._line([*(_plain(result[field]) for field in OWN), *carried, _cell(rest)])

    def _line(self, cells: list[str]) -> bytes:
        self._writer.writerow(cells)
        line = self._text.getvalue().encode("utf-8", "replace")
        self._text.seek(0)
        self._text.truncate()
        return line


def _plain(raw: msgspec.Raw) -> str:
    """A JSON value as a cell: a text's characters, a number's own digits, nothing for null."""
    text = bytes(raw).decode()
    if text == "null":
        return ""
    return str(msgspec.json.decode(raw)) if text.startswith('"') else text


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
