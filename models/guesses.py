"""Characters of text and inline media in a request: what tokens are guessed from before a call has told their number.

It learns nothing (`worker.estimates` does) and knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLD_CHARACTERS_PER_TOKEN = 3.5
COLD_OUTPUT_TOKENS = 1000
MEDIA_TOKENS = 1000
"""What an inline image or file is taken for; base64 text says nothing about it."""
TOKENS_A_MESSAGE = 4


def characters(value: Any) -> tuple[int, int]:
    """Characters of text in a request's input, and how many inline media it holds."""
    if isinstance(value, str):
        if len(value) > 512 and (value.startswith("data:") or " " not in value[:512]):
            return 0, 1
        return len(value), 0
    parts: Sequence[Any]
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list):
        parts = value
    else:
        return 0, 0
    total, media = 0, 0
    for part in parts:
        text, more = characters(part)
        total += text
        media += more
    return total, media


def input_tokens(source: Any) -> int:
    """What a request's input is taken for while nothing is learned."""
    text, media = characters(source)
    return round(text / COLD_CHARACTERS_PER_TOKEN) + TOKENS_A_MESSAGE + media * MEDIA_TOKENS


def output_bound(source: Any) -> int | None:
    """The request's own bound on output tokens, in whichever dialect's words; None if it has none."""
    if not isinstance(source, Mapping):
        return None
    inner = source.get("generationConfig")
    for place in (source, inner if isinstance(inner, Mapping) else {}):
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens", "maxOutputTokens"):
            value = place.get(name)
            if type(value) is int and value > 0:
                return value
    return None
