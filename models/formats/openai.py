"""The OpenAI Batch dialect: `{custom_id, method, url, body}` in, `{id, custom_id, response, error}` out.

A body is stored byte for byte as the user wrote it, except for whole numbers written as 5.0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

from models.formats import fields
from models.formats.beside import beside
from models.formats.datasets import makes_embeddings
from models.formats.draft import Draft
from models.formats.fields import Refused, show
from models.formats.outcome import UNSAID, Outcome, as_line, carried, refusal
from models.formats.parameters import with_whole_numbers
from models.formats.replies import shaped

DIALECT = "openai"

OWN = frozenset({"custom_id", "method", "url", "body"})
"""Fields of a line that are the dialect's; what stands beside them is the user's."""

_OPERATIONS = {
    "chat/completions": "chat",
    "responses": "responses",
    "completions": "completions",
    "embeddings": "embeddings",
}
"""The operation by the end of a line's url. What stands before it differs: `/v1/…`, Azure's `/…`, `/openai/v1/…` and
`/openai/deployments/NAME/…`, Zhipu's `/v4/…` (the vendors' batch guides)."""
_DEPLOYMENT = re.compile(r"(?:^|/)deployments/([^/]+)/")
_DEMANDED = {"chat": "messages", "completions": "prompt", "embeddings": "input"}
"""The field without which a body of the operation asks for nothing. /v1/responses has several ways to ask."""


def recognises(row: Mapping[str, Any]) -> bool:
    """Returns True for a line that means to be an OpenAI Batch line, or one of the vendors that leave method and url out."""
    return type(row.get("body")) is dict or ("method" in row and "url" in row) or ("body" in row and "custom_id" in row)


def identify(row: Mapping[str, Any]) -> str | None:
    """Returns the line's custom_id. Raises Refused, also when there is none beside a url: that form demands it."""
    own = fields.custom_id(row, "custom_id")
    if own is None and row.get("url") is not None:
        raise Refused("custom_id is missing: an OpenAI Batch line needs custom_id, method, url and body")
    return own if own is not None else fields.custom_id(row, "id")


def own(row: Mapping[str, Any]) -> frozenset[str]:
    """Returns the fields of a line that are the dialect's."""
    return OWN


def asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the object that holds the question."""
    body = row.get("body")
    return body if type(body) is dict else {}


class _Line(msgspec.Struct):
    body: msgspec.Raw


_line = msgspec.json.Decoder(_Line)


def read(row: Mapping[str, Any], line: bytes) -> Draft:
    """Reads what the line asks for. `row` is `line` decoded. Raises Refused."""
    method, url, body = row.get("method"), row.get("url"), row.get("body")
    if method is not None or url is not None:
        for field in ("method", "url", "body"):
            if row.get(field) is None:
                raise Refused(f"{field} is missing: an OpenAI Batch line needs custom_id, method, url and body")
        if method != "POST":
            raise Refused(f"method must be 'POST', not {show(method)}")
    operation = None if url is None else _operation(url)
    if type(body) is not dict:
        raise Refused(f"body must be an object, not {show(body)}")
    operation = operation or _guessed(body)
    raw = with_whole_numbers(body, bytes(_line.decode(line).body))
    demanded = _DEMANDED.get(operation)
    if demanded is not None and body.get(demanded) is None:
        raise Refused(f"body.{demanded} is missing")
    if operation == "chat":
        fields.messages(body["messages"], "body.messages")
    fields.parameters(body, "body.")
    model = fields.name(body, "model", "body.")
    if model is None and url is not None and (deployment := _DEPLOYMENT.search(url)):
        model = unquote(deployment[1])
    provider, route = fields.name(row, "provider"), fields.name(row, "route")
    return Draft(operation, model, provider, route, raw, beside(row, line, OWN))


def _operation(url: object) -> str:
    path = url.partition("?")[0].strip("/") if type(url) is str else ""
    if "://" in path:
        raise Refused(
            f"url {show(url)} names a host: write the path only, as in '/v1/chat/completions'; the provider has the host"
        )
    for end, operation in _OPERATIONS.items():
        if path == end or path.endswith(f"/{end}"):
            return operation
    known = ", ".join(f"/v1/{end}" for end in _OPERATIONS)
    raise Refused(f"url {show(url)} is not understood; these are: {known}, with whatever a vendor puts before them")


def _guessed(body: Mapping[str, Any]) -> str:
    """Returns the operation of a body whose line has no url, as at Mistral, Together and Fireworks. Raises Refused."""
    if body.get("messages") is not None:
        return "chat"
    if body.get("prompt") is not None and body.get("input") is None:
        return "completions"
    model = body.get("model")
    if body.get("input") is not None and type(model) is str and makes_embeddings(model):
        return "embeddings"
    raise Refused(
        "url is missing, and the body has no messages: add \"url\" to the line, as in '/v1/embeddings' or '/v1/responses'"
    )


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
