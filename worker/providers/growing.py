"""Texts of a stream that grow piece by piece, joined once at its end.

Adding a piece to a text copies all of it: a stream of a hundred megabytes in small pieces would take hours. It knows no dialect.
"""

from __future__ import annotations

from typing import Any


class Growing:
    """A text in pieces. It stands in decoded JSON in the place of a text until `joined` puts it together."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces


def grown(old: Any, piece: str) -> Growing:
    """`old` with a piece more; what is no text yet begins with the piece."""
    if isinstance(old, Growing):
        old.pieces.append(piece)
        return old
    return Growing([old, piece] if isinstance(old, str) else [piece])


def is_text(value: Any) -> bool:
    """Whether it is a text, in pieces or whole."""
    return isinstance(value, str | Growing)


def joined(value: Any) -> Any:
    """Decoded JSON with every growing text put together, in place. Its own stack: nesting can't exhaust Python's."""
    if isinstance(value, Growing):
        return "".join(value.pieces)
    left = [value]
    while left:
        inside = left.pop()
        places = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
        for place, one in places:
            if isinstance(one, Growing):
                inside[place] = "".join(one.pieces)
            elif isinstance(one, dict | list):
                left.append(one)
    return value
