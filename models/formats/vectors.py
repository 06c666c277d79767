"""Embeddings in a provider's reply: found and ordered without ever becoming floats.

A reply of 2,048 vectors is some 100 MB of floats, and nobody here looks at one: each stays the bytes it came as.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

LISTS = ("data", "embeddings")
"""Where vectors stand in a reply's body: OpenAI's name, and Gemini's."""
SINGLE = "embedding"
"""Where Gemini puts the vector of a single text."""

_NOTHING = msgspec.Raw(b"")


class _Entry(msgspec.Struct):
    """One vector with its number: `embedding` is OpenAI's name for it, `values` Gemini's."""

    embedding: msgspec.Raw = _NOTHING
    values: msgspec.Raw = _NOTHING
    index: int | None = None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entries = msgspec.json.Decoder(list[_Entry])
_entry = msgspec.json.Decoder(_Entry)


def members(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, undecoded. Raises ValueError when it is none."""
    try:
        return _members.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def vectors_in(found: Mapping[str, msgspec.Raw]) -> list[msgspec.Raw] | None:
    """The vectors among the members of a reply, in the order of the texts; None if it isn't a reply of embeddings.

    An empty list if they can't be told apart or one is missing. Each is a list of numbers, or base64 text.
    """
    try:
        listed = next((found[name] for name in LISTS if name in found), None)
        if listed is not None:
            entries = _entries.decode(listed)
        elif SINGLE in found:
            entries = [_entry.decode(found[SINGLE])]
        else:
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    numbers = [at if entry.index is None else entry.index for at, entry in enumerate(entries)]
    if sorted(numbers) != list(range(len(entries))):
        return []
    ordered = [entry for _, entry in sorted(zip(numbers, entries, strict=True), key=lambda pair: pair[0])]
    vectors = [entry.values if _is_vector(entry.values) else entry.embedding for entry in ordered]
    return vectors if all(map(_is_vector, vectors)) else []


def _is_vector(raw: msgspec.Raw) -> bool:
    start = b"".join(bytes(memoryview(raw)[:32]).split())
    if start[:1] == b"[" and b"null" in memoryview(raw).tobytes():
        return False  # numbers that the server couldn't compute
    return start[:1] in (b"[", b'"') and start[:2] not in (b"[]", b'""')
