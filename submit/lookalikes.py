"""Files that are no JSON lines, and what they are instead: told in one sentence, instead of an error for each line.

It only looks at how a file begins, once its first line has turned out bad.
"""

from __future__ import annotations

import json

HEAD = 1024 * 1024
"""So many bytes of the content are looked at."""

_PACKED = {b"PK\x03\x04": "a zip archive", b"BZh": "compressed with bzip2", b"\xfd7zXZ\x00": "compressed with xz"}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def told(head: bytes, name: str) -> str | None:
    """What the file `name`, which begins with `head`, is instead of JSON lines, and what to do; None where that isn't plain."""
    for magic, kind in _PACKED.items():
        if head.startswith(magic):
            return f"{name} is {kind}: unpack it, or pack it with gzip or zstd; nothing was enqueued"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return f"{name} is UTF-16: save it as UTF-8; nothing was enqueued"
    text = head.decode("utf-8", "ignore").removeprefix("\ufeff").strip()
    first = text.partition("\n")[0].strip()
    if first.startswith("[") and not _is_json(first):
        return f"{name} holds one JSON array over several lines: write one object a line, as `jq -c '.[]'` does; nothing was enqueued"
    if first.startswith("[") and first == text and text != "[]":
        return f"{name} holds one JSON array: write one object a line, as `jq -c '.[]'` does; nothing was enqueued"
    if first.startswith("{") and _spans_lines(text):
        return f"{name} holds JSON objects over several lines: write each in one line, as `jq -c .` does; nothing was enqueued"
    if not first.startswith(("{", "[")):
        lines = text.splitlines()[:2]
        for separator, word in _SEPARATORS.items():
            if len(lines) > 1 and all(separator in line for line in lines) and '{"' not in first:
                return (
                    f"{name} is no JSON lines, but looks like a table with {word}: call it .csv, or give a --template; nothing "
                    "was enqueued"
                )
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _spans_lines(text: str) -> bool:
    """Whether the first JSON value in `text` is whole, and holds a line break."""
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return text.partition("\n")[0].strip() == "{"
    return "\n" in text[:end]
