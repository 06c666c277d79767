"""HTTP/1.1 on a socket: requests in, bytes out, and the ways a connection can end badly.

It knows no path and no provider: each whole request goes to the `Desk` it was given.
"""

import asyncio
import socket
import struct
import time
from collections import deque
from enum import Enum
from http import HTTPStatus
from typing import Protocol, cast

import httptools

_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Site is overloaded"}
_STATUS_LINES = {
    code: f"HTTP/1.1 {code} {_REASONS.get(code, 'Error')}\r\ncontent-type: ".encode() for code in range(200, 600)
}
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"


class Ending(Enum):
    """What follows the last byte of an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    SILENCE = "silence"


class Request:
    """One request as it came: header names in lower case, `at` unix and `mono` monotonic seconds of its arrival."""

    __slots__ = ("at", "body", "headers", "method", "mono", "path", "query", "too_large")

    def __init__(self) -> None:
        self.method = ""
        self.path = ""
        self.query = b""
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.at = 0.0
        self.mono = 0.0
        self.too_large = False


class Answering(Protocol):
    """What a connection tells the call it is serving."""

    def written(self) -> None:
        """All bytes given to `Connection.write` are with the kernel."""

    def lost(self) -> None:
        """The caller is gone."""


class Desk(Protocol):
    """Where requests go."""

    def opened(self, connection: "Connection") -> None:
        """A client has connected."""

    def closed(self, connection: "Connection") -> None:
        """A connection is gone; its call has been told before."""

    def head(self, connection: "Connection", request: Request) -> bool:
        """A head is read, its body not. True: the desk has dealt with it (by a reset) and wants no body."""

    def take(self, connection: "Connection", request: Request) -> None:
        """A whole request is there; answer it on the connection, now or later."""


def answer_head(status: int, content_type: bytes, headers: bytes, length: int | None) -> bytes:
    """Status line and headers of an answer; `headers` are whole lines; no length means chunked."""
    if length is None:
        return b"%b%b\r\n%btransfer-encoding: chunked\r\n\r\n" % (_STATUS_LINES[status], content_type, headers)
    return b"%b%b\r\n%bcontent-length: %d\r\n\r\n" % (_STATUS_LINES[status], content_type, headers, length)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One client connection; requests sent ahead of their turn wait in order."""

    __slots__ = (
        "_call",
        "_desk",
        "_full",
        "_head",
        "_keep",
        "_parser",
        "_parts",
        "_request",
        "_transport",
        "_url",
        "_waiting",
    )

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._call: Answering | None = None
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._request = Request()
        self._head = self._url = b""
        self._parts: list[bytes] = []
        self._full = False
        self._keep = True

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # 0: unless writing is paused, everything is with the kernel
        self._transport.set_write_buffer_limits(high=0)
        self._desk.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        call, self._call = self._call, None
        if call is not None:
            call.lost()
        self._desk.closed(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort(reset=False)
        except httptools.HttpParserCallbackError:
            raise  # a bug of ours: the loop reports it and drops the connection
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.write(_BAD_REQUEST)
                self._transport.close()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._call is not None:
            self._call.written()

    # -- httptools

    def on_message_begin(self) -> None:
        self._request = Request()
        self._url = b""
        self._parts = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._request
        request.at = time.time()
        request.mono = time.monotonic()
        request.method = self._parser.get_method().decode("ascii", "replace")
        path, _, request.query = self._url.partition(b"?")
        request.path = path.decode("ascii", "replace")
        if self._transport is None or self._desk.head(self, request):
            self._transport = None
        elif request.headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if not self._request.too_large:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._transport is None:
            return
        request = self._request
        request.body = b"".join(self._parts)
        self._parts = []
        keep = self._parser.should_keep_alive()
        if self._call is not None or self._waiting:
            self._waiting.append((request, keep))
            self._transport.pause_reading()
        else:
            self._keep = keep
            self._desk.take(self, request)

    # -- for calls

    def serve(self, call: Answering) -> None:
        """From now on `call` hears what becomes of the connection."""
        self._call = call

    def write(self, data: bytes) -> None:
        """Send bytes; `Answering.written` follows once they are with the kernel, perhaps at once."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(data)
        if not self._full and self._call is not None:
            self._call.written()

    def end(self, ending: Ending) -> None:
        """The answer is out: serve the next request, or end the connection as told."""
        if ending is Ending.SILENCE or self._transport is None:
            return
        self._call = None
        if ending is Ending.RESET:
            self.abort(reset=True)
        elif ending is Ending.CLOSE or not self._keep:
            self._transport.close()
        elif self._waiting:
            request, self._keep = self._waiting.popleft()
            if not self._waiting:
                self._transport.resume_reading()
            self._desk.take(self, request)

    def abort(self, reset: bool) -> None:
        """Drop the connection at once; with `reset` the client sees a TCP RST."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        if reset:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        transport.abort()
