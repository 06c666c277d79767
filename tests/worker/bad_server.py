"""A server that answers as a test scripts it, well or badly, and the calls to it.

It knows no provider and asserts only what every failed call must keep to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from models.request import FailureKind
from worker.http import Clocks, HttpSender
from worker.providers.base import Call, Reply, SendError

Writer = asyncio.StreamWriter
Script = Callable[[bytes, Writer], Awaitable[None]]
KEY = "sk-test-0123456789"


def whole(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Answers each request on a connection by the next script; `requests` are the raw requests that came."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self.asked = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/x"

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                self.asked.set()
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                await script(head, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*scripts: Script) -> AsyncIterator[Server]:
    server = Server(*scripts)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**20)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def says(data: bytes, *, close: bool = False, reset: bool = False) -> Script:
    async def script(head: bytes, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        if reset:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if close or reset:
            writer.transport.abort() if reset else writer.close()

    return script


def hangs(data: bytes = b"") -> Script:
    async def script(head: bytes, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.Event().wait()

    return script


def call(url: str, **changes: Any) -> Call:
    return Call(**{"method": "POST", "url": url, "headers": {"authorization": KEY}, "body": b"{}", **changes})


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 60))


async def send(url: str, clocks: Clocks | None = None, sender: HttpSender | None = None, **changes: Any) -> Reply:
    async with sender or HttpSender() as http_sender:
        return await http_sender.send(call(url, **changes), clocks)


def failing(
    *scripts: Script, clocks: Clocks | None = None, sender: HttpSender | None = None, **changes: Any
) -> SendError:
    async def main() -> SendError:
        while True:
            async with serving(*scripts) as server:
                with pytest.raises(SendError) as error:
                    await send(server.url, clocks, sender, **changes)
                if server.requests:  # none if this machine stood still and the call was given up before it left
                    return error.value

    error: SendError = run(main())
    assert error.failure.kind is FailureKind.NETWORK
    assert KEY not in repr(error) + error.failure.message
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return error
