"""Bodies from one dialect to another: each file reads its dialect into the neutral shape and writes it from there.

Nothing here sends, and nothing is dropped in silence: what has no place in the other dialect raises Untranslatable with its field.
"""

from __future__ import annotations

from models.request import SIMPLE, Request
from worker.providers.neutral import Ask
from worker.providers.translation import claude, gemini, openai

__all__ = ["claude", "gemini", "openai", "read", "readable"]

_READERS = {SIMPLE: openai.read, "openai": openai.read, "claude": claude.read, "gemini": gemini.read}


def readable(dialect: str) -> bool:
    """Whether bodies of this dialect can be translated at all."""
    return dialect in _READERS


def read(request: Request, target: str) -> Ask:
    """The neutral shape of a request. `target` names the dialect that it is for. Raises Untranslatable."""
    return _READERS[request.dialect](request.input, target)
