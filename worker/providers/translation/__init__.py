"""Bodies from one dialect to another: one file reads a dialect into the neutral shape, another writes it from there.

Nothing here sends, and nothing is dropped in silence: what has no place in the other dialect raises Untranslatable with its field.
"""

from __future__ import annotations

from models.request import SIMPLE, Request
from worker.providers.neutral import Ask
from worker.providers.translation import claude, claude_bodies, gemini, gemini_bodies, openai, openai_bodies

__all__ = ["claude", "gemini", "openai", "read", "readable"]

_READERS = {
    SIMPLE: openai_bodies.read,
    "openai": openai_bodies.read,
    "claude": claude_bodies.read,
    "gemini": gemini_bodies.read,
}


def readable(dialect: str) -> bool:
    """Whether bodies of this dialect can be translated at all."""
    return dialect in _READERS


def read(request: Request, target: str) -> Ask:
    """The neutral shape of a request. `target` names the dialect that it is for. Raises Untranslatable."""
    return _READERS[request.dialect](request.input, target)
