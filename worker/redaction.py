"""A traced call as it may be kept and shown: as plain JSON, without keys, wherever they stand.

Keys are found by where they stand (headers and parts of a query with telling names) and by what they are, in any text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from models.request import Failure
from worker.providers.base import Call
from worker.providers.failures import KEY_LIKE
from worker.providers.masks import MASK, PUBLIC_HEADERS, SHORTEST, masked
from worker.providers.replies import decode
from worker.tracing import Exchange, Trace

MOST_BODY_BYTES = 2**20
"""So much of a body is kept."""
TELLING = re.compile(
    r"key|token|secret|sig|auth|pass|credential|cookie|session|signature|^code$|^sid$|account|organi[sz]ation|project",
    re.IGNORECASE,
)
"""Names of headers and of parts of a query whose value may be a key."""
_COUNTS = re.compile(
    r"ratelimit|rate-limit|^x-request|tokens?-(?:limit|remaining|reset)|^(?:retry|content|accept)-", re.IGNORECASE
)
_DEEPEST = 200
_SCHEMES = {"bearer", "basic", "token", "digest", "negotiate", "key", "apikey", "api-key"}


def told(trace: Trace, secrets: Iterable[str], configured: Iterable[str] = ()) -> dict[str, Any]:
    """The trace as JSON: {text, calls: [{method, url, headers, body, reply, error}], raised, failure, next}.

    `configured` are names of headers (lower-case) whose values the configuration keeps secret. A body is decoded JSON, else text; null if there
    is none.
    """
    hidden = {name.lower() for name in configured}
    known = {secret for secret in secrets if len(secret) >= SHORTEST}
    for exchange in trace.exchanges:
        known |= set(_sent_secrets(exchange, hidden))
    redact = _Redaction(known, hidden)
    text = None if trace.text is None else redact.text(trace.text)
    redact.withhold = text != trace.text
    return {
        "text": text,
        "calls": [redact.exchange(exchange) for exchange in trace.exchanges],
        "raised": None if trace.raised is None else redact.text(trace.raised)[-16_000:],
        "failure": None if trace.failure is None else redact.failure(trace.failure),
        "next": trace.next,
    }


def _sent_secrets(exchange: Exchange, hidden: set[str]) -> Iterable[str]:
    """What the call itself shows to be secret: values of headers and of its query, which a reply may repeat."""
    for name, value in exchange.headers.items():
        if _is_secret(name, hidden):
            yield from (
                one for one in {value, value.partition(" ")[2], value.rpartition(" ")[2]} if len(one) >= SHORTEST
            )
    for name, value in parse_qsl(urlsplit(exchange.call.url).query):
        if TELLING.search(name) and len(value) >= SHORTEST:
            yield value


def _is_secret(name: str, hidden: set[str]) -> bool:
    name = name.lower()
    if name in PUBLIC_HEADERS:
        return False
    return name in hidden or (TELLING.search(name) is not None and _COUNTS.search(name) is None)


class _Redaction:
    def __init__(self, secrets: set[str], hidden: set[str]) -> None:
        escaped = {json.dumps(one)[1:-1] for one in secrets} | {one.replace("/", "\\/") for one in secrets}
        self._secrets = tuple(sorted(secrets | escaped))
        self._hidden = hidden
        self.withhold = False
        """Whether the answer's text repeats a key: in a stream its pieces may lie in several events, where nothing finds them."""

    def text(self, text: str) -> str:
        """The text without keys: ours, and whatever looks like one."""
        return KEY_LIKE.sub(MASK, masked(text, self._secrets))

    def exchange(self, exchange: Exchange) -> dict[str, Any]:
        call, reply, error = exchange.call, exchange.reply, exchange.error
        return {
            "method": call.method,
            "url": self._url(call),
            "headers": self._headers(exchange.headers),
            "body": None if call.body is None else self._body(call.body),
            "reply": None
            if reply is None
            else {
                "status": reply.status,
                "headers": self._headers(reply.headers),
                "body": self._body(reply.body),
                "bytes": len(reply.body),
                "latency_ms": reply.latency_ms,
            },
            "error": None if error is None else {**self.failure(error.failure), "sent": error.sent},
        }

    def failure(self, failure: Failure) -> dict[str, Any]:
        return {
            "kind": str(failure.kind),
            "code": self.text(failure.code),
            "message": self.text(failure.message),
            "http_status": failure.http_status,
            "retry_after": failure.retry_after,
            "resets_in": failure.resets_in,
            "scope": None if failure.scope is None else str(failure.scope),
        }

    def _url(self, call: Call) -> str:
        parts = urlsplit(call.url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        shown = [(name, MASK if TELLING.search(name) and value else value) for name, value in pairs]
        query = parts.query if shown == pairs else urlencode(shown, safe="*")
        host = parts.netloc.rpartition("@")[2]
        return self.text(urlunsplit((parts.scheme, host, parts.path, query, "")))

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {
            self.text(name): self._credential(value) if _is_secret(name, self._hidden) else self.text(value)
            for name, value in headers.items()
        }

    def _credential(self, value: str) -> str:
        scheme, space, _ = value.partition(" ")
        return f"{scheme} {MASK}" if space and scheme.lower() in _SCHEMES else MASK

    def _body(self, body: bytes) -> Any:
        if len(body) <= MOST_BODY_BYTES and (value := decode(body)) is not None:
            try:
                return self._value(value, _DEEPEST)
            except RecursionError:
                pass
        if self.withhold:
            return "(not shown: the answer repeats a key)"
        cut = body[:MOST_BODY_BYTES]
        text = self.text(cut.decode("utf-8", "replace"))
        return text if len(cut) == len(body) else f"{text}\n… cut, {len(body):,} bytes in all"

    def _value(self, value: Any, depth: int) -> Any:
        if not depth:
            raise RecursionError
        if isinstance(value, dict):
            return {self.text(key): self._value(inner, depth - 1) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._value(inner, depth - 1) for inner in value]
        return self.text(value) if isinstance(value, str) else value
