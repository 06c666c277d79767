"""The HTTP API in this process as a fuzzer calls it: bytes become a request, straight into the application, or go through the parser.

It opens no socket.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import tempfile
from typing import Any
from unittest import mock

import h11
from starlette.applications import Starlette

from models.config_file import load_config_text
from models.database import open_database
from submit.api.access import Access
from submit.api.app import application
from submit.api.asked import Api
from submit.api.failures import CODES
from submit.api.strict import LONGEST_TARGET, MOST_HEADERS, StrictConnection

TOKEN = "all-canary-3f81b07c"
_CONFIG = "providers: [{id: openai, keys: [{id: oa-1, secret: sk-canary-5b1c}]}]"


def asked(data: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to `METHOD PATH?QUERY`, a line break, and a body."""
    first, _, body = data.partition(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    app, home = _application()
    with mock.patch.dict(os.environ, {"TRUCKLLM_HOME": home}):  # uploads lie there
        return asyncio.run(_call(app, method.decode("latin-1"), path, query, body))


async def _call(app: Starlette, method: str, path: bytes, query: bytes, body: bytes) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path.decode("utf-8", "replace"),
        "raw_path": path,
        "root_path": "",
        "query_string": query,
        "headers": [(b"authorization", f"Bearer {TOKEN}".encode()), (b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    parts = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    status: list[int] = []
    told: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            status.append(message["status"])
        else:
            told.append(message.get("body", b""))

    await app(scope, receive, send)
    return status[0], b"".join(told)


@functools.cache
def _application() -> tuple[Starlette, str]:
    folder = tempfile.TemporaryDirectory(prefix="truckllm-fuzz-")
    atexit.register(folder.cleanup)
    database = open_database(f"sqlite:///{folder.name}/api.db")
    return application(Api(database, load_config_text(_CONFIG), 1_000_000), Access(TOKEN, None)), folder.name


def parsed(data: bytes, pieces: int) -> list[tuple[Any, ...]]:
    """The requests in `data` as the server's parser reads them from so many pieces at least, each as (method, target, body); the last one
    is ("refused", code) where it ends with an error. Fails for a request whose length two programs could read differently."""
    connection = StrictConnection()
    found: list[tuple[Any, ...]] = []
    request: h11.Request | None = None
    body = b""
    size = len(data) // pieces + 1
    for start in range(0, len(data), size):
        connection.receive_data(data[start : start + size])
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                return [*found, ("refused", CODES[error.error_status_hint])]
            if isinstance(event, h11.Request):
                request, body = event, b""
                _is_unambiguous(event)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                found.append((request.method, request.target, bytes(body)))
                if connection.their_state is not h11.DONE:
                    return found  # an upgrade is asked for, or the last request of a connection
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            else:
                break
    return found


def _is_unambiguous(request: h11.Request) -> None:
    names = [name for name, _ in request.headers]
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert names.count(b"authorization") <= 1
    assert len(names) <= MOST_HEADERS
    assert len(request.target) <= LONGEST_TARGET
