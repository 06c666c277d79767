"""The OpenAI Batch dialect: `{custom_id, method, url, body}` in, `{id, custom_id, response, error}` out.

It does not change a body: what the user wrote is what is stored, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from models.formats import fields
from models.formats.beside import beside
from models.formats.draft import Draft
from models.formats.fields import Refused, show
from models.formats.outcome import UNSAID, Outcome, as_line, carried, refusal
from models.formats.replies import shaped

DIALECT = "openai"

OWN = frozenset({"custom_id", "method", "url", "body"})
"""Fields of a line that are the dialect's; what stands beside them is the user's."""

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
_DEMANDED = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
"""The field without which a body of the operation asks for nothing. /v1/responses has several ways to ask."""


def recognises(row: Mapping[str, Any]) -> bool:
    """Whether a line means to be an OpenAI Batch line."""
    return "body" in row or ("method" in row and "url" in row)


def identify(row: Mapping[str, Any]) -> str | None:
    """The line's custom_id. Raises Refused, also when there is none: the dialect demands it."""
    own = fields.custom_id(row, "custom_id")
    if own is None:
        raise Refused("custom_id is missing: an OpenAI Batch line needs custom_id, method, url and body")
    return own


class _Line(msgspec.Struct):
    body: msgspec.Raw


_line = msgspec.json.Decoder(_Line)


def read(row: Mapping[str, Any], line: bytes) -> Draft:
    """What the line asks for. `row` is `line` decoded. Raises Refused."""
    for field in ("method", "url", "body"):
        if row.get(field) is None:
            raise Refused(f"{field} is missing: an OpenAI Batch line needs custom_id, method, url and body")
    if row["method"] != "POST":
        raise Refused(f"method must be 'POST', not {show(row['method'])}")
    url, body = row["url"], row["body"]
    operation = _OPERATIONS.get(url) if type(url) is str else None
    if operation is None:
        raise Refused(f"url {show(url)} is not understood; these are: {', '.join(_OPERATIONS)}")
    if type(body) is not dict:
        raise Refused(f"body must be an object, not {show(body)}")
    demanded = _DEMANDED.get(operation)
    if demanded is not None and body.get(demanded) is None:
        raise Refused(f"body.{demanded} is missing")
    if operation == "chat":
        fields.messages(body["messages"], "body.messages")
    fields.parameters(body, "body.")
    model = fields.name(body, "model", "body.")
    provider, route = fields.name(row, "provider"), fields.name(row, "route")
    return Draft(operation, model, provider, route, bytes(_line.decode(line).body), beside(row, line, OWN))


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def url_of(operation: str) -> str:
    """Returns the url of a batch line that asks for an operation."""
    return next(url for url, asked in _OPERATIONS.items() if asked == operation)


def with_model(body: bytes, model: str) -> bytes:
    """`body` asking for `model`: untouched if it does so already, else with this one value replaced (or added in front).

    Every other value stays byte for byte as written. For `provider/model` names, `--model` and routes, where what is asked of
    the provider isn't what the user's body says.
    """
    members = _members.decode(body)
    said = members.get("model")
    if said is not None and msgspec.json.decode(said) == model:
        return body
    asked = {"model": msgspec.Raw(msgspec.json.encode(model))}
    return msgspec.json.encode({**members, **asked} if said is not None else {**asked, **members})


class _Response(msgspec.Struct):
    status_code: int
    request_id: str | None
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str | None


class _Reason(msgspec.Struct):
    message: str | None
    code: str | None
    type: str | None = None
    param: str | None = None


class _Refusal(msgspec.Struct):
    error: _Reason


class _Row(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode


def result(outcome: Outcome) -> bytes:
    """One line of a batch output file, without its newline.

    A reply goes into `response`, as received if it is OpenAI's. What the provider refused goes there too, as in OpenAI's error
    files: its own body, or one made of its reason and code. Every other failure, and a job without a result, is `error` {code,
    message}.
    """
    row = _Row(_request_name(outcome), outcome.custom_id, None, None, carried(outcome))
    if outcome.status == "succeeded":
        body = shaped(outcome, DIALECT) or _encode((outcome.response or b"").decode("utf-8", "replace"))
        row.response = _Response(outcome.http_status or 200, outcome.request_id, msgspec.Raw(body))
    elif outcome.status == "failed" and outcome.http_status is not None and outcome.http_status >= 400:
        told = refusal(outcome) or as_line(_Refusal(_Reason(outcome.error_message, outcome.error_code)))
        row.response = _Response(outcome.http_status, outcome.request_id, msgspec.Raw(told))
    else:
        message = outcome.error_message or UNSAID.get(outcome.status)
        row.error = _Error(outcome.error_code or outcome.status, message)
    return as_line(row)


def _request_name(outcome: Outcome) -> str:
    """OpenAI gives each line of its output an id; ours tells the attempt, or is made from the user's own id without one."""
    if outcome.attempt_id is not None:
        return f"batch_req_{outcome.attempt_id}"
    return "batch_req_" + hashlib.blake2b(outcome.custom_id.encode("utf-8", "replace"), digest_size=12).hexdigest()
