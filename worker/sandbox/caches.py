"""What the played providers remember of prompts whose beginnings are marked for their cache.

It reads no bodies: a dialect says which beginnings are marked.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

LEAST_TOKENS = 1024
"""A shorter beginning is not remembered, and nothing says so: as the real ones do."""
_MOST = 100_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A beginning of a prompt that is to be remembered: the digest of its text, its tokens, and whether for an hour or five minutes."""

    sha: str
    tokens: int
    for_hour: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """The tokens of one prompt that are read from the cache, those written to it, and those of them for an hour."""

    read: int = 0
    written: int = 0
    written_1h: int = 0


class PromptCache:
    """The remembered beginnings of each owner (an account and a model), until their time is over; a read starts it anew."""

    def __init__(self) -> None:
        self._until: dict[tuple[Hashable, str], float] = {}

    def share(self, owner: Hashable, marks: Sequence[Mark], now: float) -> Share:
        """What a call with these marks, shortest first, would read and write."""
        read = written = written_1h = 0
        for mark in marks:
            if mark.tokens < LEAST_TOKENS:
                continue
            if self._until.get((owner, mark.sha), 0.0) > now:
                read, written, written_1h = mark.tokens, 0, 0
                continue
            fresh = mark.tokens - read - written
            written += fresh
            written_1h += fresh if mark.for_hour else 0
        return Share(read, written, written_1h)

    def keep(self, owner: Hashable, marks: Sequence[Mark], now: float) -> None:
        """Remember the marked beginnings of a call that is answered."""
        for mark in marks:
            if mark.tokens >= LEAST_TOKENS:
                self._until[owner, mark.sha] = now + (3600.0 if mark.for_hour else 300.0)
        if len(self._until) > _MOST:
            self._until = {name: until for name, until in self._until.items() if until > now}
