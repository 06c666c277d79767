"""A sandbox on a loop of its own thread, and a client that speaks each dialect to it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import httpx
import pytest
import uvloop

from worker.sandbox.server import Sandbox, serve
from worker.sandbox.settings import SandboxSettings

KEY = "sk-canary-0123456789"
PROVIDERS = ("openai", "gemini", "claude")


class Played:
    """A running sandbox and ways to ask it."""

    def __init__(self, box: Sandbox, client: httpx.Client) -> None:
        self.box = box
        self.client = client

    def request(
        self,
        provider: str,
        text: str = "hello",
        *,
        model: str = "m-1",
        key: str = KEY,
        streamed: bool = False,
        **more: Any,
    ) -> dict[str, Any]:
        """Keyword arguments of an httpx request for a chat call; `more` is laid over the body."""
        base = self.box.url
        body: dict[str, Any]
        if provider == "openai":
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            body |= {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
            url, headers = f"{base}/openai/v1/chat/completions", {"authorization": f"Bearer {key}"}
        elif provider == "claude":
            body = {"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}]}
            body |= {"stream": True} if streamed else {}
            url, headers = f"{base}/claude/v1/messages", {"x-api-key": key, "anthropic-version": "2023-06-01"}
        else:
            body = {"contents": [{"role": "user", "parts": [{"text": text}]}]}
            action = "streamGenerateContent?alt=sse" if streamed else "generateContent"
            url, headers = f"{base}/gemini/v1/models/{model}:{action}", {"x-goog-api-key": key}
        return {"method": "POST", "url": url, "headers": headers, "json": body | more}

    def ask(self, provider: str, text: str = "hello", **options: Any) -> httpx.Response:
        return self.client.request(**self.request(provider, text, **options))

    def rows(self, query: str = "") -> list[dict[str, Any]]:
        """The truth log."""
        lines = self.client.get(f"{self.box.url}/_sandbox/log{query}").text.splitlines()
        return [json.loads(line) for line in lines]

    def row(self) -> dict[str, Any]:
        """The last row, once its call has ended."""
        deadline = time.monotonic() + 30
        while not (rows := self.rows()) or rows[-1]["finished_at"] is None:
            assert time.monotonic() < deadline, "the call never ended"
            time.sleep(0.005)
        return rows[-1]

    def raw(self, request: dict[str, Any]) -> socket.socket:
        """Send a request on a bare socket, to see how the connection ends."""
        built = self.client.build_request(**request)
        head = f"{built.method} {built.url.raw_path.decode()} HTTP/1.1\r\n".encode()
        head += b"".join(name + b": " + value + b"\r\n" for name, value in built.headers.raw)
        sock = socket.create_connection(("127.0.0.1", self.box.port), timeout=30)
        sock.sendall(head + b"\r\n" + built.read())
        return sock

    def arrived(self) -> dict[str, Any]:
        """The last row, once there is one."""
        deadline = time.monotonic() + 30
        while not (rows := self.rows()):
            assert time.monotonic() < deadline, "no call has come"
        return rows[-1]

    def faults(self, *faults: dict[str, Any]) -> None:
        answer = self.client.post(f"{self.box.url}/_sandbox/faults", json=list(faults))
        assert answer.status_code == 200, answer.text


class Play:
    """Starts sandboxes on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started: list[Played] = []

    def __call__(self, **settings: Any) -> Played:
        """A sandbox with these settings."""
        box = self._run(serve(SandboxSettings.model_validate(settings)))
        self._started.append(Played(box, httpx.Client(timeout=30, trust_env=False, verify=False)))
        return self._started[-1]

    def close(self, played: Played) -> None:
        """End one sandbox, whatever it is doing."""
        self._run(played.box.close())

    def end(self) -> None:
        for played in self._started:
            played.client.close()
            self.close(played)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)


@pytest.fixture(params=["asyncio", "uvloop"])
def play(request: pytest.FixtureRequest) -> Iterator[Play]:
    """Start sandboxes, on either kind of loop; everything is closed afterwards."""
    loop = uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    play = Play(loop)
    yield play
    play.end()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()
