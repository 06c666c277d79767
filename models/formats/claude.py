"""The Anthropic Message Batches dialect: `{custom_id, params}` in, `{custom_id, result}` out.

A body is stored byte for byte as the user wrote it, except for whole numbers written as 5.0, and for a cloud's version field.
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
from models.formats.parameters import with_whole_numbers
from models.formats.replies import shaped

DIALECT = "claude"

_FORMS = {"params": "custom_id", "modelInput": "recordId", "request": "custom_id"}
"""Where a request and its id stand: Anthropic's Message Batches, Bedrock's records, and Vertex AI's lines (their batch guides)."""
_VERSION = "anthropic_version"
"""Field of a request at Bedrock and Vertex AI; Anthropic's own API has a header for it and refuses the field."""


def recognises(row: Mapping[str, Any]) -> bool:
    """Returns True for a line that means to be a Message Batches line, or a cloud's batch line for a Claude model."""
    if fields.asks_itself(row):
        return False
    if "params" in row or "modelInput" in row:
        return True
    request = row.get("request")
    return type(request) is dict and "contents" not in request and (_VERSION in request or "messages" in request)


def _form(row: Mapping[str, Any]) -> str:
    return next(field for field in _FORMS if field in row)


def identify(row: Mapping[str, Any]) -> str | None:
    """Returns the line's own id. Raises Refused, also when there is none: these forms demand it."""
    form = _form(row)
    own = fields.custom_id(row, _FORMS[form])
    if own is None:
        raise Refused(
            f"{_FORMS[form]} is missing: an Anthropic Message Batches line needs custom_id and params"
            if form == "params"
            else f"{_FORMS[form]} is missing beside {form}"
        )
    return own


def own(row: Mapping[str, Any]) -> frozenset[str]:
    """Returns the fields of a line that are the dialect's."""
    form = _form(row)
    return frozenset({form, _FORMS[form]})


def asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object that holds the question."""
    params = row[_form(row)]
    return params if type(params) is dict else {}


_line = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(row: Mapping[str, Any], line: bytes) -> Draft:
    """Reads what the line asks for. `row` is `line` decoded. Raises Refused."""
    form = _form(row)
    params = row[form]
    if type(params) is not dict:
        raise Refused(f"{form} must be an object, not {show(params)}")
    raw = bytes(_line.decode(line)[form])
    if form != "params":
        params, raw = _without_version(params, raw, form)
    raw = with_whole_numbers(params, raw)
    for field in ("messages", "max_tokens"):
        if params.get(field) is None:
            raise Refused(f"{form}.{field} is missing: Anthropic's messages demand it")
    fields.messages(params["messages"], f"{form}.messages")
    fields.parameters(params, f"{form}.")
    system = params.get("system")
    if system is not None and type(system) is not str and type(system) is not list:
        raise Refused(f"{form}.system must be a string or a list of text blocks, not {show(system)}")
    model = fields.name(params, "model", f"{form}.") or (fields.name(row, "model") if form != "params" else None)
    provider, route = fields.name(row, "provider"), fields.name(row, "route")
    extra = frozenset({"model"}) if form != "params" else frozenset()
    return Draft("chat", model, provider, route, raw, beside(row, line, own(row) | extra))


def _without_version(params: dict[str, Any], raw: bytes, form: str) -> tuple[dict[str, Any], bytes]:
    """A cloud's request as Anthropic's own API takes it. Raises Refused for a request in another model's form."""
    if _VERSION not in params:
        has = ", ".join(show(field, 24) for field in list(params)[:6]) or "no fields"
        raise Refused(
            f"{form} is no request for a Claude model (it has {has}, and no {_VERSION}): of cloud batch files these and Gemini's are "
            "read; write the line with messages"
        )
    members = {name: value for name, value in _line.decode(raw).items() if name != _VERSION}
    return {name: value for name, value in params.items() if name != _VERSION}, msgspec.json.encode(members)


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
