"""Errors as every layer of the API answers them: `{"error": {"code", "message", …}}`, for the parser, the router and the endpoints alike.

It decides no status; who refuses a request does.
"""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

PROVEN = "truckllm.proven"
"""The ASGI extension that the application calls once a request's token is valid."""
CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    409: "conflict",
    413: "too_large",
    414: "uri_too_long",
    417: "expectation_failed",
    429: "too_many_connections",
    431: "headers_too_large",
    500: "internal_error",
    501: "not_implemented",
    503: "unavailable",
    505: "http_version_not_supported",
    507: "no_space",
}
"""The code of each status, where the cause has none of its own."""
CONTENT_TYPE = "application/json"


class RefusedError(Exception):
    """A request that is answered by this error and nothing else. `retry_after` is in whole seconds."""

    def __init__(self, status: int, message: str, *, code: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or CODES[status]
        self.message = message
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        """The headers that belong to it."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def error_body(status: int, message: str, code: str | None = None, **more: Any) -> bytes:
    """The body of an error; `more` are further fields of it."""
    return json.dumps({"error": {"code": code or CODES.get(status, "error"), "message": message, **more}}).encode()


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None, code: str | None = None, **more: Any
) -> Response:
    """The same as a response of an endpoint."""
    body = error_body(status, message, code, **more)
    return Response(body, status_code=status, headers=headers, media_type=CONTENT_TYPE)


def raw_response(error: RefusedError) -> bytes:
    """The same as bytes for the wire, of a connection that is closed behind it."""
    body = error_body(error.status, error.message, error.code)
    head = [
        f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}",
        f"content-type: {CONTENT_TYPE}",
        f"content-length: {len(body)}",
        *(f"{name.lower()}: {value}" for name, value in error.headers().items()),
        "connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
