"""What a batch says for all of its simple lines: filled in where a line doesn't say it itself.

It does not touch any other dialect: those bodies are their vendor's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from models.errors import UsageError

_ALSO = {"max_tokens": ("max_tokens", "max_completion_tokens")}
"""Fields that say the same."""
_NO_NAME = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True)
class Defaults:
    """`response_format` is in the neutral shape, see `response_format`. None: nothing to fill in. Raises UsageError."""

    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    response_format: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.system is not None and not self.system.strip():
            raise UsageError("the system message is empty: leave it out or say something")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}: it must be 1 or more")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}: it must be 0 or more")

    def given(self) -> dict[str, Any]:
        """Those that are there, by the field of a simple line."""
        fields = ("system", "max_tokens", "temperature", "response_format")
        return {field: value for field in fields if (value := getattr(self, field)) is not None}

    def filler(self) -> Filler | None:
        """What fills them into lines; None if there is nothing to fill in."""
        return Filler(self.given()) if self.given() else None


class Filler:
    """Adds fields to lines by their bytes, so that all else in a line stays as it was written."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._parts = [
            (field, _ALSO.get(field, (field,)), b"," + msgspec.json.encode({field: value})[1:-1])
            for field, value in given.items()
        ]

    def fill(self, row: Mapping[str, Any], line: bytes) -> bytes:
        """The line with what it doesn't say. `row` is `line` decoded, a good simple line without blanks around it."""
        parts = [part for field, said_by, part in self._parts if not _says(row, field, said_by)]
        return b"".join((line[:-1], *parts, b"}")) if parts else line


def _says(row: Mapping[str, Any], field: str, said_by: tuple[str, ...]) -> bool:
    if any(row.get(name) is not None for name in said_by):
        return True
    if field != "system":
        return False
    messages = row.get("messages") or row.get("input")
    return type(messages) is list and any(message.get("role") in ("system", "developer") for message in messages)


def response_format(schema: object, name: str = "answer") -> dict[str, Any]:
    """The neutral shape for a JSON schema, or for `{name, schema, strict}` as OpenAI writes it.

    A schema of its own gets `name`, and is `strict` where it may be so: every object closed, and all of its fields required.
    Raises UsageError.
    """
    if not isinstance(schema, Mapping) or not schema:
        raise UsageError('the schema must be a JSON object, such as {"type": "object", "properties": {…}}')
    if isinstance(schema.get("schema"), Mapping) and isinstance(schema.get("name"), str):
        return {"type": "json_schema", "json_schema": dict(schema)}
    short = _NO_NAME.sub("_", name).strip("_")[:_LONGEST_NAME] or "answer"
    inner = {"name": short, "schema": dict(schema), "strict": _is_closed(schema)}
    return {"type": "json_schema", "json_schema": inner}


def _is_closed(schema: object) -> bool:
    """Whether every object in a schema forbids other fields than its own and requires all of those."""
    if isinstance(schema, Mapping):
        fields = schema.get("properties")
        if schema.get("type") == "object" or isinstance(fields, Mapping):
            own = set(fields) if isinstance(fields, Mapping) else set()
            required = schema.get("required", [])
            if (
                schema.get("additionalProperties") is not False
                or not isinstance(required, list)
                or set(required) != own
            ):
                return False
        return all(_is_closed(value) for value in schema.values())
    if isinstance(schema, list):
        return all(_is_closed(value) for value in schema)
    return True
