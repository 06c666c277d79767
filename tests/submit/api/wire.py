"""`truckllm api` as a process with limits of the test's own, and raw sockets to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.servers import TRUCKLLM, wait_for

TOKEN = "all-canary-3f81b07c"
ALLOWED = f"Authorization: Bearer {TOKEN}\r\n".encode()
HOST = b"Host: a\r\n"


@dataclass(frozen=True)
class Reply:
    """An answer as it came. `status` is 0 where the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        """The error in it; fails where it isn't one of our form."""
        assert self.headers["content-type"] == "application/json"
        error = json.loads(self.body)["error"]
        assert set(error) >= {"code", "message"}
        assert error["code"]
        assert error["message"]
        return dict(error)


def parsed(data: bytes) -> Reply:
    """The first answer in what came."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return Reply(0, {}, data)
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", len(rest)))
    return Reply(int(first.split()[1]), headers, rest[:length], rest[length:])


class Api:
    """A server that listens on 127.0.0.1."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, home: Path) -> None:
        self.process = process
        self.port = port
        self.home = home

    def connect(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """A connection on which these bytes are sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), 30, source_address=(source, 0))
        if data:
            connection.sendall(data)
        return connection

    def ask(self, *pieces: bytes, source: str = "127.0.0.1") -> Reply:
        """What comes back for these bytes until the server closes."""
        with self.connect(source=source) as connection:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
            return parsed(read_all(connection))

    def get(self, path: str, headers: bytes = ALLOWED, source: str = "127.0.0.1") -> Reply:
        """The answer to a GET."""
        return self.ask(
            f"GET {path} HTTP/1.1\r\n".encode() + HOST + headers + b"Connection: close\r\n\r\n", source=source
        )

    @property
    def log(self) -> str:
        return (self.home / "output").read_text()

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


def read_all(connection: socket.socket, seconds: float = 120) -> bytes:
    """All that comes until the other side closes or resets."""
    connection.settimeout(seconds)
    found = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            found += chunk
    return found


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed; what it sent before is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@contextlib.contextmanager
def serving(*options: str, **limits: float) -> Iterator[Api]:
    """A server with `limits` as its `api` section, until the block ends. Nothing secret may be in what it printed."""
    with tempfile.TemporaryDirectory(prefix="api") as folder:
        home = Path(folder)
        config = {
            "providers": [{"id": "openai", "keys": [{"id": "oa-1", "secret": "sk-canary-5b1c"}]}],
            "api": limits,
        }
        (home / "truckllm.yaml").write_text(json.dumps(config))
        with (home / "output").open("w") as output:
            process = subprocess.Popen(
                [*TRUCKLLM, "api", "--port", "0", *options],
                cwd=home,
                env={**os.environ, "TRUCKLLM_HOME": str(home / "state"), "TRUCKLLM_API_TOKEN": TOKEN},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(
                lambda: process.poll() is not None or "serving http" in (home / "output").read_text(), "the API", 60
            )
            port = (home / "output").read_text().split("serving http")[1].split("127.0.0.1:")[1].split()[0]
            yield Api(process, int(port), home)
            assert "canary" not in (home / "output").read_text()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def elapsed(since: float) -> float:
    """Seconds since a moment of the monotonic clock."""
    return time.monotonic() - since
