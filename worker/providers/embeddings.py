"""Replies to embeddings, read without their numbers: how many vectors came, for which usage and model.

It never turns a vector into floats: a reply of 2,048 vectors is some 100 MB of them, and nobody here looks at one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models.request import Failure, FailureKind, Usage
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.replies import decode, name

VECTORS = "vectors"
"""Where the outline of a reply tells how many vectors it holds."""

_LISTS = ("data", "embeddings")  # OpenAI's name and Gemini's
_ONE = "embedding"  # Gemini's for a single text
_NOTHING = msgspec.Raw(b"")
_SMALL = 64 * 1024


class _Entry(msgspec.Struct):
    """One vector with its number: `embedding` is OpenAI's name for it, `values` Gemini's."""

    embedding: msgspec.Raw = _NOTHING
    values: msgspec.Raw = _NOTHING
    index: int | None = None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entries = msgspec.json.Decoder(list[_Entry])
_entry = msgspec.json.Decoder(_Entry)


def outline(body: bytes) -> Any:
    """The body decoded, with the number of its whole vectors under `VECTORS` in the place of the vectors; None if it isn't JSON.

    Vectors that are numbered twice or not from 0 on, and entries without one, make the number 0.
    """
    try:
        members = _members.decode(body)
        found = {name: decode(bytes(raw)) for name, raw in members.items() if name not in (*_LISTS, _ONE)}
        listed = next((members[name] for name in _LISTS if name in members), None)
        if listed is not None:
            found[VECTORS] = _whole(_entries.decode(listed))
        elif _ONE in members:
            found[VECTORS] = _whole([_entry.decode(members[_ONE])])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # no embeddings: an error in some other form, which is small, or nothing that can be read
        return decode(body) if len(body) <= _SMALL else None
    return found


def _whole(entries: list[_Entry]) -> int:
    numbers = [at if entry.index is None else entry.index for at, entry in enumerate(entries)]
    if sorted(numbers) != list(range(len(entries))):
        return 0
    return len(entries) if all(_is_vector(entry.embedding) or _is_vector(entry.values) for entry in entries) else 0


def _is_vector(raw: msgspec.Raw) -> bool:
    """A list of numbers, or their bytes in base64; not empty."""
    start = bytes(memoryview(raw)[:16]).split()
    return bool(start) and start[0][:1] in (b"[", b'"') and b"".join(start)[:2] not in (b"[]", b'""')


def vectors_wanted(source: Mapping[str, Any], *, within: str) -> int:
    """How many vectors a body asks for: one for each text, or list of token numbers, in the field `within`."""
    asked = source.get(within)
    if not isinstance(asked, list) or all(type(one) is int for one in asked):
        return 1
    return len(asked)


def embeddings_answer(body: dict[str, Any], wanted: int, usage: Usage | None, reply: Reply) -> Answer | None:
    """What an outline means; an answer has no text. Fewer vectors than texts are no answer, for nobody could tell which is whose."""
    came = body.get(VECTORS)
    if not isinstance(came, int):
        return None
    failure = None
    if came != wanted:
        message = f"{wanted} embeddings were asked for, and {came} whole ones came"
        failure = Failure(FailureKind.NETWORK, "unreadable_reply", message, reply.status)
    return Answer(usage, served_model=name(body.get("model")), failure=failure)


def token_numbers(value: Any) -> int:
    """How many tokens a text stands for that is given as token numbers, or as lists of them; 0 for text."""
    if not isinstance(value, list):
        return 0
    return sum(1 if type(one) is int else token_numbers(one) for one in value)
