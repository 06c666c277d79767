"""HTTP/1.1 requests, read by h11 and then held to more than it asks: one framing, one line form, one token, and bounds on all of it.

What two programs in a row can read differently (a proxy, then this server) is refused, not interpreted: RFC 9112, sections 3, 5.2, 6.3
and 11.2. It opens no socket and knows no path.
"""

from __future__ import annotations

import re

import h11

LONGEST_HEAD = 64 * 1024
"""Bytes of a request's line and headers together."""
LONGEST_TARGET = 8 * 1024
MOST_HEADERS = 100
_BODILESS = (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLD = re.compile(rb"\n[ \t]")
_ONCE = (b"authorization", b"content-length", b"content-type", b"expect", b"host", b"transfer-encoding")
"""Headers that may stand in a request once."""


_WORDS = {
    400: "the request is not well-formed HTTP/1.1",
    431: f"the request's line and headers are longer than {LONGEST_HEAD:,} bytes",
    501: "Transfer-Encoding: only chunked is understood",
}
"""For what h11 refuses."""


class RefusedRequestError(h11.RemoteProtocolError):
    """A request that is refused, in words of ours that quote nothing of it."""


class StrictConnection(h11.Connection):
    """The server's side of a connection. `failure` is the error that `next_event` raised last; h11 has nothing to add after one."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, LONGEST_HEAD)
        self.failure: h11.RemoteProtocolError | None = None

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's. Raises RemoteProtocolError for what is refused, with the status in `error_status_hint`."""
        begins = self.their_state is h11.IDLE
        before = self.trailing_data[0] if begins else b""
        try:
            event = super().next_event()
            if begins and isinstance(event, h11.Request):
                check_head(before[: len(before) - len(self.trailing_data[0])], event)
        except h11.RemoteProtocolError as error:
            if begins and error.error_status_hint == 431 and b"\n" not in before[:LONGEST_TARGET]:
                error = _too_long()
            elif not isinstance(error, RefusedRequestError):  # h11 quotes what came, and a token may be in that
                error = _refused(_WORDS.get(error.error_status_hint, _WORDS[400]), error.error_status_hint)
            self.failure = error
            raise error from None
        return event


def check_head(raw: bytes, request: h11.Request) -> None:
    """Raises RemoteProtocolError for a head that h11 takes and we don't. `raw` is the head as it came."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise _refused("only HTTP/1.1 and HTTP/1.0 are spoken here", 505)
    if len(request.target) > LONGEST_TARGET:
        raise _too_long()
    if len(raw) > LONGEST_HEAD:
        raise _refused(_WORDS[431], 431)
    if _FOLD.search(raw):
        raise _refused("a header goes on in a second line (obsolete line folding)")
    if _BARE_LF.search(raw):
        raise _refused("a line ends in LF without CR")
    names = [line.partition(b":")[0].strip().lower() for line in raw.split(b"\r\n")[1:] if line]
    if len(names) > MOST_HEADERS:
        raise _refused(f"the request has more than {MOST_HEADERS} headers", 431)
    for name in _ONCE:
        if names.count(name) > 1:
            raise _refused(f"the header {name.decode()} is there twice")
    _check_framing(request, dict(request.headers), raw)


def _check_framing(request: h11.Request, headers: dict[bytes, bytes], raw: bytes) -> None:
    length, encoding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
    if length is not None and encoding is not None:
        raise _refused("Content-Length and Transfer-Encoding contradict each other")
    if re.search(rb"\ncontent-length:[^\r\n]*,", raw, re.IGNORECASE):  # h11 makes one of `5, 5`
        raise _refused("Content-Length has several values")
    if encoding is not None and request.http_version < b"1.1":
        raise _refused("HTTP/1.0 has no Transfer-Encoding")
    has_body = encoding is not None or (length or b"0").strip(b"0") != b""
    if has_body and request.method in _BODILESS:
        raise _refused(f"{request.method.decode('ascii')} takes no body: parameters go into the query")
    expected = headers.get(b"expect")
    if expected is not None and expected.lower() != b"100-continue" and request.http_version >= b"1.1":
        raise _refused("Expect: only 100-continue is known", 417)


def _too_long() -> h11.RemoteProtocolError:
    return _refused(f"the URL is longer than {LONGEST_TARGET:,} bytes", 414)


def _refused(message: str, status: int = 400) -> h11.RemoteProtocolError:
    return RefusedRequestError(message, error_status_hint=status)
