"""The Anthropic Message Batches dialect: `{custom_id, params}` in, `{custom_id, result}` out.

It does not change a body: the user's `params` are what is stored, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from models.formats import fields
from models.formats.beside import beside
from models.formats.draft import Draft
from models.formats.fields import Refused, show
from models.formats.outcome import Outcome, as_line, carried, refusal
from models.formats.replies import shaped

DIALECT = "claude"

OWN = frozenset({"custom_id", "params"})
"""Fields of a line that are the dialect's; what stands beside them is the user's."""


def recognises(row: Mapping[str, Any]) -> bool:
    """Whether a line means to be a Message Batches line."""
    return "params" in row and not fields.asks_itself(row)


def identify(row: Mapping[str, Any]) -> str | None:
    """The line's custom_id. Raises Refused, also when there is none: the dialect demands it."""
    own = fields.custom_id(row, "custom_id")
    if own is None:
        raise Refused("custom_id is missing: an Anthropic Message Batches line needs custom_id and params")
    return own


class _Line(msgspec.Struct):
    params: msgspec.Raw


_line = msgspec.json.Decoder(_Line)


def read(row: Mapping[str, Any], line: bytes) -> Draft:
    """What the line asks for. `row` is `line` decoded. Raises Refused."""
    params = row["params"]
    if type(params) is not dict:
        raise Refused(f"params must be an object, not {show(params)}")
    for field in ("messages", "max_tokens"):
        if params.get(field) is None:
            raise Refused(f"params.{field} is missing: Anthropic's messages demand it")
    fields.messages(params["messages"], "params.messages")
    fields.parameters(params, "params.")
    system = params.get("system")
    if system is not None and type(system) is not str and type(system) is not list:
        raise Refused(f"params.system must be a string or a list of text blocks, not {show(system)}")
    model = fields.name(params, "model", "params.")
    provider, route = fields.name(row, "provider"), fields.name(row, "route")
    return Draft("chat", model, provider, route, bytes(_line.decode(line).params), beside(row, line, OWN))


class _Reason(msgspec.Struct, omit_defaults=True):
    type: str
    message: str
    details: dict[str, str] | None = None


class _Error(msgspec.Struct):
    type: str
    error: _Reason
    request_id: str | None


class _Result(msgspec.Struct, omit_defaults=True):
    type: str
    message: msgspec.Raw | None = None
    error: _Error | msgspec.Raw | None = None


class _Row(msgspec.Struct):
    custom_id: str
    result: _Result
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_BY_STATUS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_TYPES = frozenset(_BY_STATUS.values())
_OURS = {
    "untranslatable": "invalid_request_error",
    "invalid_line": "invalid_request_error",
    "too_large": "request_too_large",
    "timeout": "timeout_error",
}
"""Codes of failures that had no answer of Anthropic's kind, by the type that says the same there."""


def result(outcome: Outcome) -> bytes:
    """One line of a batch's results, without its newline.

    A reply is `succeeded` with the message (as received, if it is Claude's); a failure is `errored`, with the provider's own error or one made of our
    code (in `details.error_code`) and reason; `canceled` as there. Jobs that aren't done yet have their own words, `queued`
    and `running`.
    """
    if outcome.status == "succeeded":
        found = _Result("succeeded", message=msgspec.Raw(shaped(outcome, DIALECT) or b"null"))
    elif outcome.status == "failed":
        found = _Result("errored", error=_error(outcome))
    else:
        found = _Result("canceled" if outcome.status == "cancelled" else outcome.status)
    return as_line(_Row(outcome.custom_id, found, carried(outcome)))


def _error(outcome: Outcome) -> _Error | msgspec.Raw:
    code = outcome.error_code or "error"
    told = refusal(outcome)
    if told is not None and told.startswith(b"{") and msgspec.json.decode(told).get("type") == "error":
        return msgspec.Raw(told)
    kind = code if code in _TYPES else _OURS.get(code) or _BY_STATUS.get(outcome.http_status or 0) or "api_error"
    reason = _Reason(kind, outcome.error_message or "", None if kind == code else {"error_code": code})
    return _Error("error", reason, outcome.request_id)
