"""The HTTP API on a real socket, asked by somebody who means harm: refused in bounded memory, without a token's word, and it serves on."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import wait_for

TOKEN = "all-canary-3f81b07c"
CONFIG = "providers: [{id: openai, keys: [{id: oa-1, secret: sk-canary-5b1c}]}]\n"
ALLOWED = f"Authorization: Bearer {TOKEN}\r\n".encode()


@pytest.fixture
def port(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> Iterator[int]:
    (tmp_path / "truckllm.yaml").write_text(CONFIG)
    start("api", "--port", "0", TRUCKLLM_API_TOKEN=TOKEN)
    output = tmp_path / "process0.output"
    wait_for(lambda: "serving http://" in output.read_text(), "the API to serve", 30)
    yield int(output.read_text().split("serving http://127.0.0.1:")[1].split()[0])
    assert "canary" not in output.read_text()


def answer(port: int, *pieces: bytes) -> bytes:
    """What comes back for these bytes, until the server closes or has said all."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.settimeout(30)
        found = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while chunk := connection.recv(65536):
                found += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
        return found


def status(port: int, *pieces: bytes) -> int:
    """The status of the answer, 0 if the connection was closed without one."""
    first = answer(port, *pieces).partition(b"\r\n")[0].split()
    return int(first[1]) if first else 0


def test_what_an_attacker_sends_is_refused_and_the_next_caller_is_served(port: int) -> None:
    host = b"Host: a\r\nConnection: close\r\n"
    cases: list[tuple[str, set[int], Any]] = [
        ("no token", {401}, b"GET /v1/batches HTTP/1.1\r\n" + host + b"\r\n"),
        ("a wrong one", {401}, b"GET /v1/batches HTTP/1.1\r\n" + host + b"Authorization: Bearer x\xff\r\n\r\n"),
        ("a body without a token", {401}, b"POST /v1/batches HTTP/1.1\r\n" + host + b"Content-Length: 9\r\n\r\n"),
        ("a long header", {400, 431, 0}, b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 200_000 + b"\r\n\r\n"),
        ("many headers", {400, 431, 0}, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 50_000),
        ("a long target", {400, 414, 0}, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("a line break in a header", {400}, b"GET / HTTP/1.1\r\n" + host + b"X: a\rY: b\r\n\r\n"),
        (
            "two lengths",
            {400},
            b"POST /v1/batches HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" + host + b"\r\na",
        ),
        ("TRACE", {405}, b"TRACE /v1/batches HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("OPTIONS", {405}, b"OPTIONS /v1/batches HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("a path upwards", {404}, b"GET /v1/../../../etc/passwd HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("one in disguise", {404}, b"GET /v1/batches/%2e%2e%2f1 HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("a slash too many", {404}, b"GET /v1/batches/ HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("an endless list", {400}, b"GET /v1/batches?limit=999999999 HTTP/1.1\r\n" + host + ALLOWED + b"\r\n"),
        ("no HTTP", {400, 0}, b"\x16\x03\x01\x02\x00" + b"\0" * 512 + b"\r\n\r\n"),
    ]
    for name, wanted, data in cases:
        assert status(port, data) in wanted, name
    assert status(port, b"HEAD /v1/batches HTTP/1.1\r\n" + host + ALLOWED + b"\r\n") == 200
    served = answer(port, b"GET /v1/batches HTTP/1.1\r\n" + host + ALLOWED + b"\r\n")
    assert served.startswith(b"HTTP/1.1 200")
    assert b"server:" not in served.lower()
