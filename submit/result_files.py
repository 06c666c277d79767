"""How results' files are called when nobody says, and whether one may take another's place.

It does not write them; `submit.exports` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from submit.archives import SUFFIXES as ARCHIVE_SUFFIXES

_BUFFER = 1024 * 1024
_INPUTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".psv", ".parquet", ".xlsx", ".xlsm")
_UNANSWERED = ("failed", "cancelled", "queued", "running")


def default_paths(
    batch_id: int, input_name: str, *, partial: bool = False, suffix: str = ".jsonl", limit: int | None = None
) -> Iterator[Path]:
    """Returns where results may go when nobody says, best first, without end; in the input's folder, here if that folder isn't here.

    prompts.jsonl → prompts.results.jsonl, prompts.batch-7.results.jsonl, prompts.batch-7-2.results.jsonl, …; so far ("partial"):
    prompts.partial.jsonl, …; of a pilot of the first 20 lines (`limit`): prompts.first20.results.jsonl, …
    """
    kind = "partial" if partial else "results"
    folder = Path()
    if input_name in ("-", ""):
        own = f"batch-{batch_id}"
    else:
        source = Path(input_name)
        name = source.stem if source.suffix.lower() in ARCHIVE_SUFFIXES else source.name
        stem = Path(name).stem if Path(name).suffix.lower() in _INPUTS else name
        stem += f".first{limit}" if limit is not None else ""
        own = f"{stem}.batch-{batch_id}"
        folder = source.parent if source.parent.is_dir() else folder
        yield folder / f"{stem}.{kind}{suffix}"
    yield folder / f"{own}.{kind}{suffix}"
    for number in itertools.count(2):
        yield folder / f"{own}-{number}.{kind}{suffix}"


def holds_all(new: Path, old: Path) -> bool:
    """Whether every answer in the file `old` stands in `new` too, on the same line; so if there is no `old`.

    What failed or was open may have changed: that is what reruns are for. A file that holds anything but results is never
    held. Memory doesn't grow with the files. Raises OSError.
    """
    try:
        before = open(old, "rb", buffering=_BUFFER)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return True
    with before, open(new, "rb", buffering=_BUFFER) as after:
        return all(line == other or _is_unanswered(line, other) for line, other in _pairs(before, after))


def _pairs(before: BinaryIO, after: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    for line in before:
        yield line, after.readline()


class _Result(msgspec.Struct):
    """As much of a result line of any dialect as tells whether it holds an answer, and whose it is."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    custom_id: msgspec.Raw = msgspec.Raw(b"null")
    key: msgspec.Raw = msgspec.Raw(b"null")
    status: str | None = None
    error: Any = None
    result: Mapping[str, Any] | None = None
    response: msgspec.Raw = msgspec.Raw(b"null")


class _Response(msgspec.Struct):
    status_code: int = 0


_decode = msgspec.json.Decoder(_Result).decode
_decode_response = msgspec.json.Decoder(_Response | None).decode


def _is_unanswered(line: bytes, other: bytes) -> bool:
    """Whether `line` is the result of a job that had no answer, and `other` one of the same job."""
    try:
        was, now = _decode(line), _decode(other)
        response = _decode_response(was.response)
    except msgspec.MsgspecError:
        return False
    if was.custom_id != b"null":  # OpenAI's and Anthropic's; OpenAI's `id` is that of the attempt
        same = was.custom_id == now.custom_id
    else:
        same = (was.id, was.key) == (now.id, now.key)
    refused = response is not None and response.status_code >= 400
    kind = (was.result or {}).get("type", "succeeded")
    return same and (was.status in _UNANSWERED or was.error is not None or refused or kind != "succeeded")
