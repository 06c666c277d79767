"""One result line a job, in the dialect its input line came in.

It does not open files or query the store: `submit.exports` does, in input order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.formats import claude, gemini, openai, simple
from models.formats.outcome import Outcome

__all__ = ["Outcome", "result_line"]

_WRITERS: Mapping[str, Callable[[Outcome], bytes]] = {
    dialect.DIALECT: dialect.result for dialect in (simple, openai, claude, gemini)
}


def result_line(outcome: Outcome) -> bytes:
    """One line of JSON, newline included. Raises KeyError for a dialect that `read_lines` never gives."""
    return _WRITERS[outcome.dialect](outcome) + b"\n"
