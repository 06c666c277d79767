"""Replies that don't come from the API that was asked: a page, JSON of another kind, a redirect, a 404 that names nothing.

Servers that name the path in words are rows of the tables of signals, with the scope `endpoint`.
"""

from __future__ import annotations

import re
from typing import Any

from models.request import Failure, FailureKind, FailureScope
from worker.providers.base import Reply
from worker.providers.error_bodies import is_page

_NAMES_NOTHING = re.compile(
    r"(?:(?:http|error|40[45]|the|page|file|resource|object|not|found|nginx|openresty|apache)\b|[\s.,:!/\d]+)*",
    re.IGNORECASE,
)
"""A 404 without a word on what is missing, as most servers report a path that they don't have."""
_STREAM_FIELDS = ("data:", "event:", "id:", "retry:")
_ANSWER_FIELDS = frozenset({"choices", "candidates", "content", "output", "data", "embeddings", "error", "usage", "id"})


def of_another_server(reply: Reply, body: Any, failure: Failure) -> bool:
    """Returns whether a reply without an answer seems to come from something else than the API."""
    if failure.scope not in (None, FailureScope.REQUEST) or failure.kind is FailureKind.MODEL:
        return False
    if 300 <= reply.status < 400:
        return True
    if reply.status < 300:
        return failure.code == "unreadable_reply" and (is_page(reply) or _of_another_kind(reply.body, body))
    return reply.status in (404, 405) and _NAMES_NOTHING.fullmatch(failure.message) is not None


def _of_another_kind(text: bytes, body: Any) -> bool:
    """Returns whether a body of status 200 is whole and has no form that an API answers in: JSON without its fields, or a word such as
    "OK". Empty bodies, JSON that is cut and pieces of streams aren't: APIs send those too."""
    if isinstance(body, dict):
        return bool(body) and not _ANSWER_FIELDS & body.keys()
    if body is not None:
        return True
    try:
        words = text.removeprefix(b"\xef\xbb\xbf").decode().strip()
    except UnicodeDecodeError:
        return False
    return bool(words) and words[0].isalnum() and len(words) <= 200 and not words.startswith(_STREAM_FIELDS)
