"""What is stored of a job, turned back: into an input line that asks for the same again, and into an excerpt of its prompt.

Bodies stay byte for byte as they were written.
"""

from __future__ import annotations

from typing import Any

import msgspec

from models.formats import claude, gemini, openai, simple
from models.request import SIMPLE

LONGEST_EXCERPT = 200
"""Characters of a prompt that are shown beside an error."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


def input_line(
    *, dialect: str, operation: str, custom_id: str, model: str, body: bytes, metadata: bytes | None
) -> bytes | None:
    """Returns a line (without its newline) that asks for the job's body again, under its own id; None where none is stored.

    A line without a model gets the job's, so that it needs no `--model`. Raises nothing for a bad line that was kept.
    """
    try:
        members = _members.decode(body)
    except msgspec.MsgspecError:
        return None
    beside = {} if metadata is None else {"metadata": msgspec.Raw(metadata)}
    own_id = msgspec.Raw(_encode(custom_id))
    if dialect == SIMPLE:
        given = {} if "id" in members or "custom_id" in members else {"id": own_id}
        if model and "model" not in members and "route" not in members:
            given["model"] = msgspec.Raw(_encode(model))
        return _encode({**given, **members}) if given else body.strip()
    if dialect == gemini.DIALECT:
        named = {"model": msgspec.Raw(_encode(model))} if model and "model" not in members else {}
        return _encode({"key": own_id, **named, "request": msgspec.Raw(body), **beside})
    whole = msgspec.Raw(openai.with_model(body, model) if model and "model" not in members else body)
    if dialect == claude.DIALECT:
        return _encode({"custom_id": own_id, "params": whole, **beside})
    url = openai.url_of(operation)
    return _encode({"custom_id": own_id, "method": "POST", "url": url, "body": whole, **beside})


def prompt_excerpt(body: bytes) -> str | None:
    """Returns the beginning of what a body asks: the text of its last message, its prompt or input; None where it has none."""
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not isinstance(asked, dict):
        return None
    for name in ("messages", "prompt", simple.EMBED, "input", "contents"):
        if text := " ".join(_text_of(asked.get(name)).split()):
            return text if len(text) <= LONGEST_EXCERPT else text[: LONGEST_EXCERPT - 1] + "…"
    return None


def _text_of(value: Any) -> str:
    """Returns the text in a message, a part, or the last of a list of messages; parts of one message are joined."""
    if isinstance(value, str):
        return value[: 10 * LONGEST_EXCERPT]
    if isinstance(value, dict):
        return next(filter(None, (_text_of(value.get(name)) for name in ("content", "parts", "text"))), "")
    if isinstance(value, list) and value:
        parts = all(isinstance(one, dict) and not {"role", "content"} & one.keys() for one in value)
        return " ".join(filter(None, map(_text_of, value[:20]))) if parts else _text_of(value[-1])
    return ""
