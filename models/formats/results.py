"""One result line a job, in the dialect its input line came in.

It does not open files or query the store: `submit.exports` does, in input order.
"""

from __future__ import annotations

from models.formats import openai, simple
from models.formats.outcome import Outcome

__all__ = ["Outcome", "result_line"]

_WRITERS = {simple.DIALECT: simple.result, openai.DIALECT: openai.result}


def result_line(outcome: Outcome) -> bytes:
    """One line of JSON, newline included. Raises KeyError for a dialect that `read_lines` never gives."""
    return _WRITERS[outcome.dialect](outcome) + b"\n"
