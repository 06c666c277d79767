"""Replies to embeddings, read without their numbers: how many vectors came, for which usage and model.

It never turns a vector into floats: a reply of 2,048 vectors is some 100 MB of them, and nobody here looks at one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.formats.vectors import LISTS, SINGLE, members, vectors_in
from models.request import Usage
from worker.providers.answers import Answer
from worker.providers.base import Reply
from worker.providers.failures import unreadable
from worker.providers.replies import decode, name
from worker.providers.usage import billed_beside, first_count

VECTORS = "vectors"
"""Where the outline of a reply tells how many vectors it holds."""

_SMALL = 64 * 1024


def outline(body: bytes) -> Any:
    """The body decoded, with the number of its vectors under `VECTORS` in the place of the vectors; None if it isn't JSON.

    The number is 0 when one is missing, or when they can't be told apart.
    """
    try:
        found = members(body)
    except ValueError:  # an error in some other form, which is small, or nothing that can be read
        return decode(body) if len(body) <= _SMALL else None
    known = {name: decode(bytes(raw)) for name, raw in found.items() if name not in (*LISTS, SINGLE)}
    vectors = vectors_in(found)
    return known if vectors is None else {**known, VECTORS: len(vectors)}


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
        failure = unreadable(reply, f"{wanted} embeddings were asked for, and {came} whole ones came")
    return Answer(usage, served_model=name(body.get("model")), failure=failure)


def embeddings_usage(usage: Any) -> Usage | None:
    """The usage of embeddings, which have no output: all tokens are input. Many servers tell the total alone (Voyage, Jina)."""
    told = [first_count(usage, field) for field in ("prompt_tokens", "input_tokens", "total_tokens")]
    known = [number for number in told if number is not None]
    return Usage(max(known), fees=billed_beside(usage, max(known))) if known else None


def token_numbers(value: Any) -> int:
    """How many tokens a text stands for that is given as token numbers, or as lists of them; 0 for text."""
    if not isinstance(value, list):
        return 0
    return sum(1 if type(one) is int else token_numbers(one) for one in value)
