"""The Gemini batch dialect: `{key, request}` in, `{key, response}` or `{key, error}` out.

A body is stored byte for byte as the user wrote it, except for whole numbers written as 5.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models.formats import fields
from models.formats.beside import beside
from models.formats.draft import Draft
from models.formats.fields import Refused, show
from models.formats.outcome import UNSAID, Outcome, as_line, carried, refusal
from models.formats.parameters import with_whole_numbers
from models.formats.replies import shaped

DIALECT = "gemini"

OWN = frozenset({"key", "request", "model"})
"""Fields of a line that are the dialect's; what stands beside them is the user's."""


def recognises(row: Mapping[str, Any]) -> bool:
    """Returns True for a line that means to be a line of a Gemini batch, at Google's API or at Vertex AI."""
    return "request" in row and (type(row["request"]) is dict or "key" in row) and not fields.asks_itself(row)


def identify(row: Mapping[str, Any]) -> str | None:
    """Returns the line's `key`, or `metadata.key` as in inline batches; else a `custom_id` or `id` of its own. Raises Refused."""
    own = fields.custom_id(row, "key")
    metadata = row.get("metadata")
    if own is None and type(metadata) is dict:
        own = fields.custom_id(metadata, "key")
    for field in ("custom_id", "id"):
        own = fields.custom_id(row, field) if own is None else own
    return own


def own(row: Mapping[str, Any]) -> frozenset[str]:
    """Returns the fields of a line that are the dialect's."""
    return OWN


def asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object that holds the question."""
    request = row.get("request")
    return request if type(request) is dict else {}


class _Line(msgspec.Struct):
    request: msgspec.Raw


_line = msgspec.json.Decoder(_Line)


def read(row: Mapping[str, Any], line: bytes) -> Draft:
    """What the line asks for. `row` is `line` decoded. Raises Refused."""
    request = row["request"]
    if type(request) is not dict:
        raise Refused(f"request must be an object, not {show(request)}")
    raw = with_whole_numbers(request, bytes(_line.decode(line).request))
    if request.get("contents") is None and request.get("content") is not None:
        raise Refused('request.content asks for embeddings: write such a line as {"id": …, "embed": "the text"}')
    _check_contents(request.get("contents"))
    for field in ("generationConfig", "generation_config", "systemInstruction", "system_instruction"):
        if request.get(field) is not None and type(request[field]) is not dict:
            raise Refused(f"request.{field} must be an object, not {show(request[field])}")
    model = fields.name(request, "model", "request.") or fields.name(row, "model")
    provider, route = fields.name(row, "provider"), fields.name(row, "route")
    short = None if model is None else model.removeprefix("models/")
    return Draft("chat", short, provider, route, raw, beside(row, line, OWN))


def _check_contents(contents: object) -> None:
    if contents is None:
        raise Refused("request.contents is missing")
    if type(contents) is not list or not contents:
        raise Refused(
            f"request.contents must be a list of {{role, parts}} with at least one entry, not {_few(contents)}"
        )
    for index, content in enumerate(contents):
        if type(content) is not dict:
            raise Refused(f"request.contents[{index}] must be an object with parts, not {show(content)}")
        role = content.get("role")
        if role is not None and type(role) is not str:
            raise Refused(f"request.contents[{index}].role must be a string such as 'user', not {show(role)}")
        parts = content.get("parts")
        if type(parts) is not list or not parts or any(type(part) is not dict for part in parts):
            raise Refused(
                f"request.contents[{index}].parts must be a list of objects such as {{text}}, not {_few(parts)}"
            )


def _few(value: object) -> str:
    return "an empty list" if value == [] else "a list of other things" if type(value) is list else show(value)


class _Status(msgspec.Struct):
    code: int
    message: str
    details: list[dict[str, str]] | msgspec.Raw


class _Row(msgspec.Struct, omit_defaults=True):
    key: str
    response: msgspec.Raw | None = None
    error: _Status | None = None
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_GRPC = {
    "CANCELLED": 1,
    "UNKNOWN": 2,
    "INVALID_ARGUMENT": 3,
    "DEADLINE_EXCEEDED": 4,
    "NOT_FOUND": 5,
    "ALREADY_EXISTS": 6,
    "PERMISSION_DENIED": 7,
    "RESOURCE_EXHAUSTED": 8,
    "FAILED_PRECONDITION": 9,
    "ABORTED": 10,
    "OUT_OF_RANGE": 11,
    "UNIMPLEMENTED": 12,
    "INTERNAL": 13,
    "UNAVAILABLE": 14,
    "DATA_LOSS": 15,
    "UNAUTHENTICATED": 16,
}
_BY_STATUS = {
    400: 3,
    401: 16,
    402: 8,
    403: 7,
    404: 5,
    408: 4,
    409: 10,
    413: 3,
    422: 3,
    429: 8,
    499: 1,
    500: 13,
    502: 14,
}
_BY_STATUS |= {503: 14, 504: 4, 529: 14}
_OURS = {
    "untranslatable": 3,
    "invalid_line": 3,
    "too_large": 3,
    "timeout": 4,
    "cancelled": 1,
    "queued": 14,
    "running": 14,
}
"""Codes of ours and the number of google.rpc.Code that says the same."""
_UNKNOWN = 2


def result(outcome: Outcome) -> bytes:
    """One line of a batch's responses file, without its newline.

    A reply is `response`, as received if it is Gemini's. Everything else is `error`, a google.rpc.Status whose details hold our own code as the
    reason of an ErrorInfo.
    """
    row = _Row(outcome.custom_id, metadata=carried(outcome))
    if outcome.status == "succeeded":
        row.response = msgspec.Raw(shaped(outcome, DIALECT) or b"null")
    else:
        row.error = _error(outcome)
    return as_line(row)


class _Refusal(msgspec.Struct):
    message: str
    status: str
    details: msgspec.Raw = msgspec.Raw(b"[]")


class _Refused(msgspec.Struct):
    error: _Refusal


_refused = msgspec.json.Decoder(_Refused)


def _error(outcome: Outcome) -> _Status:
    told = refusal(outcome)
    if told is not None:
        try:
            error = _refused.decode(told).error
            return _Status(_GRPC[error.status], error.message, error.details)
        except (msgspec.MsgspecError, KeyError):
            pass
    code = outcome.error_code or outcome.status
    number = _GRPC.get(code.upper()) or _OURS.get(code) or _BY_STATUS.get(outcome.http_status or 0) or _UNKNOWN
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "truckllm"}
    return _Status(number, outcome.error_message or UNSAID.get(outcome.status) or "", [info])
