"""Replays a field case: a scripted server over HTTP, a configuration, an input, and the real command.

The format of the files in `field_cases/` is described in `field_cases/README.md`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from models.database import Database
from models.tables import attempts, batches, jobs
from tests.servers import TRUCKLLM

CASES = Path(__file__).parent / "field_cases"
PRICES = {"input_token_cost": "0.001", "output_token_cost": "0.002", "cached_token_cost": "0.0001", "currency": "USD"}
WORKER = {"retry_for": 12, "max_attempts": 2}
MODEL_LISTS: dict[str, Any] = {
    "openai": {"object": "list", "data": []},
    "claude": {"data": [], "has_more": False},
    "gemini": {"models": []},
}


def parts_of(name: str) -> list[str]:
    """Returns the names of a case's parts: one empty name where it has none."""
    tree = json.loads((CASES / f"{name}.json").read_text())
    return [part["part"] for part in tree.get("parts", [])] or [""]


def read_case(name: str, part: str = "") -> dict[str, Any]:
    """Returns the case with the given part laid over it."""
    tree = json.loads((CASES / f"{name}.json").read_text())
    found = [one for one in tree.pop("parts", []) if one["part"] == part]
    return {**tree, **(found[0] if found else {})}


@dataclass
class Call:
    """One request that reached the server. `at` is time.monotonic() at its arrival."""

    at: float
    provider: str
    path: str
    authorization: str
    body: dict[str, Any]
    text: str
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def prompt(self) -> str:
        """The text of the last message."""
        messages = self.body.get("messages") or [{}]
        content = messages[-1].get("content", "")
        return content if isinstance(content, str) else json.dumps(content)

    @property
    def status(self) -> int:
        return int(self.reply.get("status", 200))


class ScriptedProviders:
    """An HTTP server that plays all providers of a case; `calls` holds every POST in order of arrival."""

    def __init__(self, providers: Mapping[str, Any]) -> None:
        self.providers = providers
        self.calls: list[Call] = []
        self._used: dict[int, int] = {}
        self._lock = threading.Lock()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                provider = self.path.split("/")[1]
                settings = scripted.providers[provider]
                self._answer(settings.get("list") or {"body": MODEL_LISTS[settings.get("type", "openai")]})

            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                _, provider, *path = self.path.split("/")
                secret = self.headers.get("authorization") or self.headers.get("x-api-key") or ""
                call = Call(time.monotonic(), provider, "/" + "/".join(path), secret, json.loads(text or "{}"), text)
                call.reply = scripted.next_reply(call)
                self._answer(call.reply)

            def _answer(self, reply: Mapping[str, Any]) -> None:
                time.sleep(reply.get("delay", 0))
                headers = {name: _filled(value) for name, value in reply.get("headers", {}).items()}
                self.send_response(reply.get("status", 200))
                for name, value in headers.items():
                    self.send_header(name, value)
                if "chunks" in reply:
                    self.send_header("connection", "close")
                    self.end_headers()
                    for chunk in reply["chunks"]:
                        if isinstance(chunk, int | float):
                            time.sleep(chunk)
                            continue
                        event = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"
                        self.wfile.write(event.encode())
                        self.wfile.flush()
                    self.close_connection = True
                    return
                body = reply.get("body", {})
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                if not any(name.lower() == "content-type" for name in headers):
                    self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

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

    def next_reply(self, call: Call) -> dict[str, Any]:
        """Records the call and returns its reply: the replies of a list come in order, the last one repeats."""
        settings = self.providers[call.provider]
        lists = [one for one in settings.get("by", []) if self._matches(one, call)]
        chosen = lists[0] if lists else settings
        with self._lock:
            self.calls.append(call)
            used = self._used.get(id(chosen), 0)
            self._used[id(chosen)] = used + 1
        return dict(chosen["replies"][min(used, len(chosen["replies"]) - 1)])

    @staticmethod
    def _matches(one: Mapping[str, Any], call: Call) -> bool:
        return (
            one.get("when", "") in call.text
            and one.get("path", "") in call.path
            and one.get("model", call.model) == call.model
            and one.get("prompt", call.prompt) == call.prompt
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _filled(value: str) -> str:
    if value.startswith("{date+"):
        return formatdate(time.time() + float(value[6:-1]), usegmt=True)
    return value


class Replay:
    """A case laid out in a folder, its server running."""

    def __init__(self, case: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> None:
        self.case = case
        self.folder = folder
        self.environment = environment
        self.providers = ScriptedProviders(case["providers"])
        self.started: list[subprocess.Popen[str]] = []
        (folder / "truckllm.yaml").write_text(yaml.safe_dump(self._configuration()))
        self.input = folder / case.get("file", {}).get("name", "prompts.jsonl")
        self.input.write_bytes(self._content())
        self.arguments = [case.get("command", "run"), str(self.input), *case.get("args", [])]
        self.output = ""

    def _configuration(self) -> dict[str, Any]:
        providers = []
        for name, settings in self.case["providers"].items():
            keys = settings.get("keys", [{"id": f"{name}-1", "secret": f"sk-canary-{name}", "limit_req_per_min": 600}])
            entry: dict[str, Any] = {
                "id": name,
                "type": settings.get("type", "openai"),
                "base_url": f"{self.providers.url}/{name}" + ("/v1" if settings.get("v1", True) else ""),
                "keys": [{"pricing": PRICES, **key} for key in keys],
            }
            if "models" in settings:
                entry["models"] = settings["models"]
            providers.append(entry)
        return {"providers": providers, "worker": WORKER, **self.case.get("config", {})}

    def _content(self) -> bytes:
        file = self.case.get("file")
        if file is None:
            return "".join(json.dumps(line) + "\n" for line in self.case["lines"]).encode()
        if "base64" in file:
            return base64.b64decode(file["base64"])
        pieces = file["text"] if isinstance(file["text"], list) else [file["text"]]
        return "".join(one if isinstance(one, str) else one[0] * one[1] for one in pieces).encode()

    # Commands

    def start(self) -> subprocess.Popen[str]:
        """Starts the case's command and leaves it running; `read_output` returns what it has printed."""
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(
                [*TRUCKLLM, *self.arguments],
                cwd=self.folder,
                env=dict(self.environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.started.append(process)
        return process

    def read_output(self) -> str:
        return (self.folder / "output").read_text()

    def run(self, seconds: float = 90.0) -> int:
        """Runs the case's command to its end; returns its exit code."""
        code = self.start().wait(seconds)
        self.output = self.read_output()
        return code

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGINT)
        process.wait(60)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs another command in the case's folder."""
        return subprocess.run(
            [*TRUCKLLM, *arguments],
            cwd=self.folder,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    # Results

    def calls(self, provider: str | None = None) -> list[Call]:
        """Returns the calls that arrived, in order."""
        return [call for call in self.providers.calls if provider in (None, call.provider)]

    def results(self) -> dict[str, dict[str, Any]]:
        """Returns the lines of the results file by their id."""
        (path,) = self.folder.glob("*.results.jsonl")
        # splitlines() would also split at U+2028 and NEL
        lines = [json.loads(line) for line in path.read_text().split("\n") if line]
        return {str(line.get("custom_id", line.get("id"))): line for line in lines}

    def rows(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        database = Database(f"sqlite:///{self.folder / 'home' / 'truckllm.db'}")
        try:
            with database.read() as connection:
                return [dict(row) for row in connection.execute(query).mappings()]
        finally:
            database.close()

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Returns the rows of `jobs` by custom_id."""
        return {row["custom_id"]: row for row in self.rows(sa.select(jobs))}

    def attempts(self, custom_id: str) -> list[dict[str, Any]]:
        """Returns the ledger's rows for a job, oldest first."""
        query = sa.select(attempts).join(jobs, jobs.c.id == attempts.c.job_id).where(jobs.c.custom_id == custom_id)
        return self.rows(query.order_by(attempts.c.started_at, attempts.c.id))

    def batches(self) -> list[dict[str, Any]]:
        return self.rows(sa.select(batches))

    def status(self) -> dict[str, Any]:
        """Returns what `status --json` prints for the first batch."""
        return dict(json.loads(self.command("status", "1", "--json").stdout))

    def quarantined(self) -> dict[str, Any]:
        """Returns the keys that are out of use, by "provider/key", as `keys --json` prints them."""
        keys = json.loads(self.command("keys", "--json").stdout)["keys"]
        return {f"{key['provider']}/{key['key_id']}": key for key in keys if key["state"] == "quarantined"}

    def assert_nothing_was_sent(self) -> None:
        assert self.calls() == []

    def assert_blocked(self, code: int, *words: str) -> None:
        """Asserts that the run ended blocked: exit code 3, no row failed, and the output holds the words."""
        assert code == 3, self.output
        assert {job["status"] for job in self.jobs().values()} == {"queued"}
        for text in words:
            assert text in self.output, self.output

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
        self.providers.close()


@contextlib.contextmanager
def replaying(name: str, part: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Replay]:
    """Lays a case out in the folder and closes its server and processes at the end."""
    replay = Replay(read_case(name, part), folder, environment)
    try:
        yield replay
    finally:
        replay.close()
