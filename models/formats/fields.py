"""Checks of single fields of an input line, each with a reason a person can act on.

It does not know which dialect a line is in; the dialects put these checks together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

MAX_NAME = 512
"""Longest id, model, provider or route, in characters: these become columns of the database."""

QUESTIONS = ("prompt", "messages", "input")
"""The fields in which a simple line holds what it asks."""


class Refused(ValueError):
    """A line that can't become a job; the message is the reason."""


def show(value: object, limit: int = 60) -> str:
    """`value` as it may stand in a reason: quoted, control characters escaped, cut to about `limit` characters."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= limit else value[:limit] + "…")
        case int() | float():
            return str(value)
        case list():
            return "an array"
        case _:
            return "an object"


def asks_itself(row: Mapping[str, Any]) -> bool:
    """Whether the line holds its question itself, as a simple line does, whatever else stands in it."""
    return "prompt" in row or "messages" in row or "input" in row or "embed" in row


def custom_id(row: Mapping[str, Any], field: str) -> str | None:
    """The user's own id in `field`; None if it isn't there. Whole numbers are taken as their digits."""
    value = row.get(field)
    if value is None:
        return None
    if type(value) is int:
        return str(value)
    if type(value) is float and abs(value) >= 2**63:  # a reader of JSON has only 64 bits for a whole number
        raise Refused(f"{field} is a number of more than 64 bits: put it into quotes, so that each digit is kept")
    return _column(value, field, "a string (or a whole number)")


def name(row: Mapping[str, Any], field: str, where: str = "") -> str | None:
    """A model's, provider's or route's name in `field`; None if it isn't there. `where` is put before the field in a reason."""
    value = row.get(field)
    return None if value is None else _column(value, where + field, "a string")


def _column(value: object, field: str, kind: str) -> str:
    if type(value) is not str:
        raise Refused(f"{field} must be {kind}, not {show(value)}")
    if not value or value.isspace():
        raise Refused(f"{field} is empty: leave it out or give it a value")
    if len(value) > MAX_NAME:
        raise Refused(f"{field} is {len(value)} characters long; at most {MAX_NAME} are taken")
    if "\0" in value:
        raise Refused(f"{field} holds a NUL character (\\u0000)")
    return value


def messages(value: object, field: str) -> None:
    """Refuse what isn't a list of {role, content}. Contents are text, a list of parts, or missing beside e.g. `tool_calls`."""
    if type(value) is not list:
        raise Refused(f"{field} must be a list of {{role, content}}, not {show(value)}")
    if not value:
        raise Refused(f"{field} is an empty list: it needs at least one message")
    for index, message in enumerate(value):
        if type(message) is not dict:
            raise Refused(f"{field}[{index}] must be an object with role and content, not {show(message)}")
        role = message.get("role")
        if type(role) is not str or not role:
            raise Refused(f"{field}[{index}].role must be a string such as 'user', not {show(role)}")
        content = message.get("content")
        if type(content) is str:
            continue
        if content is None:
            if not message.keys() - {"role", "content", "name"}:
                raise Refused(f"{field}[{index}].content is missing")
        elif type(content) is not list or any(type(part) is not dict for part in content):
            raise Refused(f"{field}[{index}].content must be a string or a list of parts, not {_contents(content)}")


def _contents(content: object) -> str:
    return "a list of other things" if type(content) is list else show(content)


def _is_positive(value: object) -> bool:
    return type(value) is int and value > 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_switch(value: object) -> bool:
    return type(value) is bool


def _is_stop(value: object) -> bool:
    return type(value) is str or (type(value) is list and all(type(item) is str for item in value))


def _is_list(value: object) -> bool:
    return type(value) is list


_COUNT = (_is_positive, "a positive whole number")
_NUMBER = (_is_number, "a number")
_PARAMETERS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "n": _COUNT,
    "dimensions": _COUNT,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "seed": (_is_whole, "a whole number"),
    "stream": (_is_switch, "true or false"),
    "stop": (_is_stop, "a string or a list of strings"),
    "tools": (_is_list, "a list"),
}


def parameters(row: Mapping[str, Any], where: str = "") -> None:
    """Refuse well-known parameters of a wrong type. null stands for "not given"; unknown parameters are the provider's affair."""
    for field, value in row.items():
        rule = _PARAMETERS.get(field)
        if rule is not None and value is not None and not rule[0](value):
            raise Refused(f"{where}{field} must be {rule[1]}, not {show(value)}")
