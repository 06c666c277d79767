"""A server that plays the providers of the failover scenarios over real HTTP, each with one fault, and keeps a log of what came.

It speaks OpenAI's chat dialect, streamed. The path names the provider: /NAME/v1/chat/completions.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = [f"word{number}" for number in range(60)]
ANSWER = " ".join(WORDS)
USAGE = {"prompt_tokens": 21, "completion_tokens": 60, "total_tokens": 81}


@dataclass(frozen=True)
class Seen:
    """One request. `at` is time.monotonic() at its arrival, `number` its place among those to this provider, from 1."""

    at: float
    provider: str
    number: int
    body: dict[str, Any]


class Exchange:
    """One request and the ways to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, seen: Seen, closing: threading.Event) -> None:
        self.seen = seen
        self._handler = handler
        self._closing = closing

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        """Answers with an error in OpenAI's form."""
        body = json.dumps({"error": {"message": message, "type": code, "code": code}}).encode()
        self._handler.send_response(status)
        for name, value in {**headers, "content-type": "application/json", "content-length": str(len(body))}.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def stream(
        self,
        words: Iterable[str] = WORDS,
        *,
        end: bool = True,
        done: bool = True,
        pause: float = 0,
        broken: int | None = None,
    ) -> None:
        """Streams an answer: headers and the role at once, after `pause` the words; event `broken` is no JSON."""
        self.begin()
        self._event(self._chunk({"role": "assistant", "content": ""}))
        self._closing.wait(pause)
        for number, word in enumerate(words):
            if number == broken:
                self._write(b'data: {"id": "c", "choi\n\n')
            self._event(self._chunk({"content": word if number == 0 else f" {word}"}))
        if end:
            self._event(self._chunk({}, "stop"))
            self._event({**self._chunk({}), "choices": [], "usage": USAGE})
        if done:
            self._write(b"data: [DONE]\n\n")
        if end:
            self._handler.wfile.write(b"0\r\n\r\n")
        else:
            self._handler.close_connection = True

    def begin(self) -> None:
        self._handler.send_response(200)
        self._handler.send_header("content-type", "text/event-stream")
        self._handler.send_header("transfer-encoding", "chunked")
        self._handler.end_headers()

    def hang(self, seconds: float = 60.0) -> None:
        """Holds the connection open without a byte."""
        self._closing.wait(seconds)
        self._handler.close_connection = True

    def reset(self) -> None:
        """Resets the connection."""
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._handler.connection.close()
        self._handler.close_connection = True

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        return {
            "id": "c",
            "object": "chat.completion.chunk",
            "model": f"{self.seen.provider}-model",
            "choices": choices,
        }

    def _event(self, value: Mapping[str, Any]) -> None:
        self._write(f"data: {json.dumps(value)}\n\n".encode())

    def _write(self, data: bytes) -> None:
        self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self._handler.wfile.flush()


Fault = Callable[[Exchange], None]


def answers(exchange: Exchange) -> None:
    exchange.stream()


def refuses_prefill(exchange: Exchange) -> None:
    if exchange.seen.body["messages"][-1]["role"] == "assistant":
        exchange.refuse(400, "invalid_request_error", "This model does not support assistant message prefill.")
    else:
        exchange.stream()


class FaultServer:
    """The server. `faults` are by provider; `log` holds every request in order of arrival."""

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        self.log: list[Seen] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        playing = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                seen = playing._note(self.path.split("/")[1], body)
                faults[seen.provider](Exchange(self, seen, playing._closing))

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                """Clients may close a connection at any time."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _note(self, provider: str, body: dict[str, Any]) -> Seen:
        with self._lock:
            number = 1 + sum(one.provider == provider for one in self.log)
            self.log.append(Seen(time.monotonic(), provider, number, body))
            return self.log[-1]

    def calls(self, provider: str) -> list[Seen]:
        """The requests to this provider."""
        return [one for one in self.log if one.provider == provider]

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
