"""The forms of results, by name.

It shapes no lines; `models.formats.results` does.
"""

from __future__ import annotations

from enum import StrEnum


class Form(StrEnum):
    """How results are written. `jsonl`: each line in the dialect it came in."""

    JSONL = "jsonl"
    CSV = "csv"
    OPENAI = "openai"
    CLAUDE = "claude"
    GEMINI = "gemini"
    SIMPLE = "simple"
