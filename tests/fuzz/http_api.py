"""The HTTP API in this process as a fuzzer calls it: bytes become a request, straight into the application.

It opens no socket; how uvicorn reads the wire is uvicorn's business.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import tempfile
from typing import Any
from unittest import mock

from starlette.applications import Starlette

from models.config_file import load_config_text
from models.database import open_database
from submit.api.access import Access
from submit.api.app import application
from submit.api.asked import Api

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
