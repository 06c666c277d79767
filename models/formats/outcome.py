"""Outcome: all that one finished (or unfinished) job puts into the results, and the small tools that write it exactly.

It does not know the dialects: each shapes its own line, `results` picks between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import msgspec


@dataclass(frozen=True, slots=True)
class Outcome:
    """One job as the results show it.

    `status` is the job's (`succeeded`, `failed`, `cancelled`, `queued`, `running`). `body` is the stored input body of its
    dialect (may be empty when it was pruned). `metadata` is what stood beside a vendor's body, as JSON. `response` is the reply's raw body, decompressed. Tokens, cost and latency are
    those of the attempt that made the result; `attempts` counts the calls that left. `cost_nanos` is in billionths of
    `currency`; None means unpriced.
    """

    custom_id: str
    dialect: str
    status: str
    body: bytes = field(repr=False, default=b"")
    metadata: bytes = field(repr=False, default=b"")
    text: str | None = field(repr=False, default=None)
    response: bytes | None = field(repr=False, default=None)
    error_code: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    request_id: str | None = None
    provider: str | None = None
    key_id: str | None = None
    requested_model: str | None = None
    served_model: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_nanos: int | None = None
    currency: str | None = None
    latency_ms: int | None = None
    attempts: int = 0
    attempt_id: int | str | None = None


def one_line(raw: bytes) -> bytes | None:
    """`raw` as one line of JSON: byte for byte where it is one already, else without its line breaks; None if it isn't JSON.

    Numbers and strings are never decoded, so a 1 MB list of floats stays as it came.
    """
    raw = raw.strip()
    try:
        raw.decode("utf-8")
        msgspec.json.decode(raw, type=msgspec.Raw)
        return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return None


class _Carried(msgspec.Struct):
    metadata: msgspec.Raw = msgspec.Raw(b"null")


_carried = msgspec.json.Decoder(_Carried)


def metadata_in(body: bytes, beside: bytes) -> bytes:
    """A line's metadata as one line of JSON: what stood `beside` a vendor's body, else what is in a simple line's. Empty: none."""
    raw = beside or (bytes(_carried.decode(body).metadata) if body else b"")
    metadata = one_line(raw) if raw else None
    return b"" if metadata in (None, b"null") else metadata or b""


def carried(outcome: Outcome) -> msgspec.Raw | msgspec.UnsetType:
    """The line's metadata, for results in a vendor's shape, which has a place for it only where there is some."""
    metadata = metadata_in(outcome.body, outcome.metadata)
    return msgspec.Raw(metadata) if metadata else msgspec.UNSET


def refusal(outcome: Outcome) -> bytes | None:
    """The JSON body with which the provider refused the request, if that is what failed the job."""
    if outcome.status != "failed" or (outcome.http_status or 0) < 400 or not outcome.response:
        return None
    return one_line(outcome.response)


UNSAID = {
    "queued": "This request has not been sent yet.",
    "running": "This request is being worked on.",
    "cancelled": "This request was cancelled before it had a reply.",
}
"""What the results say of jobs without reply or failure, by status."""


_encode = msgspec.json.Encoder().encode
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def as_line(row: msgspec.Struct) -> bytes:
    """`row` as one line of JSON, without its newline."""
    try:
        return _encode(row)
    except (
        UnicodeEncodeError
    ):  # a lone surrogate, decoded by a plugin or in a provider's words: the line must still be written
        return _encode(storable(row))


def storable(row: _Struct) -> _Struct:
    """`row` with every lone surrogate in its texts replaced by a question mark: such text has no UTF-8 form."""
    changes: dict[str, object] = {}
    for name in row.__struct_fields__:
        value = getattr(row, name)
        if isinstance(value, str):
            changes[name] = value.encode("utf-8", "replace").decode()
        elif isinstance(value, msgspec.Struct):
            changes[name] = storable(value)
    return msgspec.structs.replace(row, **changes)
