"""Requests that ask for nothing: blank text where the question stands, and nothing beside it, in each dialect's body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXTS = frozenset({"text", "input_text", "output_text"})
"""Types of parts that hold text only."""


_QUESTIONS = ("messages", "contents", "prompt", "input", "embed")
_ELSEWHERE = ("previous_response_id", "conversation")
"""Fields by which a body of OpenAI's /responses goes on without an input."""


def is_blank(value: object) -> bool:
    """Returns True for text without a visible character, for nothing, and for lists and parts that hold only such."""
    if value is None:
        return True
    if type(value) is str:
        return not value or value.isspace()
    if type(value) is list:
        return all(is_blank(one) for one in value)
    if type(value) is dict:
        kind = value.get("type")
        if kind in _TEXTS or (kind is None and value.keys() <= {"text", "thought"} and "text" in value):
            return is_blank(value.get("text"))
    return False


def asks_nothing(body: Mapping[str, Any]) -> bool:
    """Returns True where a simple line or a dialect's body holds a question that is blank. It may be anything yet unchecked."""
    named = [name for name in _QUESTIONS if name in body]
    given = [name for name in named if body[name] is not None]
    if len(given) != 1:
        return bool(named) and not given and not any(body.get(name) is not None for name in _ELSEWHERE)
    value = body[given[0]]
    if type(value) is not list:
        return is_blank(value)
    if value and all(type(one) is str for one in value):
        return any(is_blank(one) for one in value)  # texts to be embedded or completed
    return _is_empty_talk(value)


def _is_empty_talk(messages: list[Any]) -> bool:
    """Whether the last message is a blank one of the user, or no message but the system's says anything."""
    spoken = [message for message in messages if type(message) is dict and not _is_system(message)]
    if not spoken:
        return all(_is_empty(message) for message in messages)
    last = spoken[-1]
    return (last.get("role") in (None, "user") and _is_empty(last)) or all(_is_empty(message) for message in spoken)


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("system", "developer")


def _is_empty(message: object) -> bool:
    if type(message) is str:
        return is_blank(message)
    if type(message) is not dict:
        return False
    if message.keys() - {"role", "content", "parts", "name", "type", "id", "status", "cache_control"}:
        return False  # calls of tools, results, items of other kinds
    if "content" not in message and "parts" not in message:
        return "role" in message
    return is_blank(message.get("parts" if "parts" in message else "content"))
