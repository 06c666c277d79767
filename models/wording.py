"""Numbers with their nouns, for sentences that people read.

It does not print, and knows no sentence of its own.
"""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """As "1 job", "1,200 jobs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
