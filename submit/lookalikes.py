"""Files that are no JSON lines, and what they are instead: one sentence, instead of an error for each line."""

from __future__ import annotations

import json

from models.errors import InputError

MAGIC = 262
"""So many bytes are looked at to see that a file can't be read as text at all."""
HEAD = 1024 * 1024
"""So many bytes of the content are looked at."""

_SAVE = "save it as .xlsx or as CSV (UTF-8)"
_FOREIGN = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": f"an old Excel file (.xls), or one with a password: {_SAVE}, without a password",
    b"ARROW1\0\0": "an Arrow (Feather) file: write it as Parquet, as `pyarrow.parquet.write_table` does",
    b"Obj\x01": "an Avro file: write it as Parquet or as JSON lines",
    b"SQLite format 3\0": "an SQLite database: write its rows as CSV or JSON lines",
    b"%PDF-": "a PDF document: it has no rows. Write its text into a CSV or JSONL file",
    b"{\\rtf": "a document in RTF: write its text into a CSV or JSONL file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it, or pack it with gzip or zstd",
    b"Rar!\x1a\x07": "a RAR archive: unpack it, or pack it with gzip or zstd",
    b"\x04\x22\x4d\x18": "compressed with LZ4: unpack it, or pack it with gzip or zstd",
    b"\x1f\x9d": "compressed with compress: unpack it, or pack it with gzip or zstd",
    b"\x80\x04\x95": "a Python pickle: write its rows as Parquet or as JSON lines",
    b"\x80\x05\x95": "a Python pickle: write its rows as Parquet or as JSON lines",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file: write its rows as Parquet or as JSON lines",
}
_PAGES = (b"<!doctype html", b"<html", b"<table")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def refuse(begin: bytes, name: str) -> None:
    """Raises InputError for a file that begins as no input does: a database, a document, an archive of another kind."""
    for magic, what in _FOREIGN.items():
        if begin.startswith(magic):
            raise InputError(f"{name} is {what}; nothing was enqueued")
    if begin.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        raise InputError(f"{name} is an HTML page: {_SAVE}; nothing was enqueued")
    if begin[257:262] == b"ustar":
        raise InputError(f"{name} is a tar archive: unpack it, and submit its files; nothing was enqueued")


def told(head: bytes, name: str) -> str | None:
    """What the file `name`, which begins with `head`, is instead of JSON lines, and what to do; None where that isn't plain."""
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
