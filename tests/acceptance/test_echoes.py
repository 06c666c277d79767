"""A provider that repeats the caller's key wherever it can, and a plugin that crashes with it: it is kept and shown nowhere.

What a provider puts into the text of an answer is the user's own, and stays; see tests/worker/providers/test_masks.py.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
import yaml
from starlette.testclient import TestClient

from models.config_file import load_config
from models.database import Database, upgrade
from submit.api.access import Access
from submit.api.app import application
from submit.api.asked import Api
from tests.servers import Valkey, wait_for

KEY = "canary/7f3a+91==.Zk_echoed"
CRASH_KEY = "canary-of-a-plugin-that-crashes"
UNRELATED = "canary-of-another-program"
MARK = b"canary"
"""In every planted secret, and in nothing else that these tests write."""
ANSWER = {
    "model": "gpt-a",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
PLUGIN = """
from worker.providers.base import Call, Provider, Reply

class Crashing(Provider):
    def build(self, request):
        return Call("POST", self.config.base_url + "/chat/completions", {}, b"{}")

    def read(self, request, reply):
        raise RuntimeError(f"I don't like {request.api_key}")

    def build_list_models(self, api_key):
        return Call("GET", self.config.base_url + "/models", {})

    def read_list_models(self, reply):
        return []
"""


class Echoing(BaseHTTPRequestHandler):
    """Chooses by the prompt how it repeats the key."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.gate.wait()  # type: ignore[attr-defined]
        told = self.headers.get("authorization", "")
        key = told.removeprefix("Bearer ")
        error = {"error": {"message": f"{told} ({key}) is not for you", "code": key, "type": key, "param": key}}
        match body.get("messages", [{}])[0].get("content", "")[:7]:
            case "message":
                self.reply(400, error)
            case "cut-key":
                self.reply(400, {"error": {"message": " " * 49_980 + key, "code": "x" * 50 + key}})
            case "web-pag":
                self.reply(400, f"<html><b>{key}</b><pre>{told}</pre></html>".encode(), {"x-request-id": key})
            case "redirec":
                self.reply(302, b"", {"location": f"https://example.com/?key={key}"})
            case "refusal":
                self.reply(200, {**ANSWER, "choices": [{"message": {"role": "assistant", "refusal": f"no, {key}"}}]})
            case "columns":
                self.reply(200, ANSWER, {"x-request-id": key})
            case _:
                self.reply(200, ANSWER)

    def do_GET(self) -> None:
        self.reply(200, {"data": [{"id": "gpt-a"}]})

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Says nothing: a test's output is looked at for keys too."""


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """The provider; its calls wait while `gate` is shut."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echoing)
    server.gate = threading.Event()  # type: ignore[attr-defined]
    server.gate.set()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.gate.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture
def config(tmp_path: Path, server: ThreadingHTTPServer) -> Path:
    url = f"http://127.0.0.1:{server.server_port}/v1"
    (tmp_path / "crashing.py").write_text(PLUGIN)
    echo = {"id": "openai", "base_url": url, "allow_http": True, "keys": [{"id": "a", "secret": "${ECHOED}"}]}
    crash = {
        "id": "crashing",
        "class": "crashing:Crashing",
        "base_url": url,
        "allow_http": True,
        "keys": [{"id": "b", "secret": "${CRASHED}"}],
    }
    tree = {"providers": [echo, crash], "worker": {"max_attempts": 1}}
    path = tmp_path / "truckllm.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


KINDS = ("message", "cut-key", "web-page", "redirect", "refusal", "columns", "good")


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_a_key_that_a_provider_or_a_crash_repeats_is_found_nowhere(
    backend: str,
    config: Path,
    request: pytest.FixtureRequest,
    valkey: Valkey,
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., Any],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/all.db" if backend == "sqlite" else request.getfixturevalue("postgres_url")
    database = Database(url)
    upgrade(database)
    common = {"TRUCKLLM_REDIS_URL": valkey.url, "TRUCKLLM_DATABASE_URL": url}
    secrets = {"ECHOED": KEY, "CRASHED": CRASH_KEY, "OPENAI_API_KEY": UNRELATED}
    worker = start("worker", "-c", config, **common, **secrets)
    lines = [
        {"id": f"{kind}-{n}", "provider": "openai", "model": "gpt-a", "prompt": f"{kind} {n}"}
        for kind in KINDS
        for n in range(2)
    ]
    lines.append({"id": "crash", "provider": "crashing", "model": "m", "prompt": "Hi"})
    prompts = write_lines(lines)
    submitted = cli("submit", prompts, "-c", config, **common)
    assert submitted.returncode == 0, submitted.stderr
    batch = submitted.stdout.split()[-1]

    def statuses() -> dict[str, int]:
        with database.read() as connection:
            return dict(connection.execute(sa.text("SELECT status, count(*) FROM jobs GROUP BY status")).all())  # type: ignore[arg-type]

    wait_for(lambda: statuses() == {"failed": 11, "succeeded": 4}, "all rows to end", 60)
    said = [
        cli(*words, "-c", config, **common, **secrets)
        for words in (
            ("status", batch),
            ("jobs", batch, "--json"),
            ("verify", batch, "--json"),
            ("keys", "--json"),
            ("doctor", "--json", "--keys"),
            *(
                ("results", batch, "-o", f"{form}.out", "--format", form)
                for form in ("jsonl", "csv", "openai", "claude")
            ),
            ("results", batch, "-o", "gemini.out", "--format", "gemini"),
        )
    ]
    said.append(cli("init", "-c", "made.yaml", **secrets))
    for done in said:
        assert MARK not in (done.stdout + done.stderr).encode(), done.args
    assert (tmp_path / "gemini.out").read_text().count("\n") == len(lines)
    for process in psutil.Process(worker.pid).children(recursive=True):
        assert not any(MARK.decode() in word for word in process.cmdline())
    worker.terminate()
    assert worker.wait(60) == 0
    log = (tmp_path / "process0.output").read_text()
    assert "RuntimeError: I don't like ***" in log  # the traceback is there, the key isn't

    with valkey.client() as client:
        for key in client.scan_iter("*"):
            assert MARK not in key + (client.dump(key) or b"")
    seen = 0
    with database.read() as connection:
        for table in sa.inspect(connection).get_table_names():
            for row in connection.execute(sa.text(f"SELECT * FROM {table}")):
                for value in row:
                    held = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    assert MARK not in held, (table, row)
                    seen += 1
    assert seen > 500
    api = Api(database, load_config(config, secrets=False, environ={}), 1_000_000)
    with TestClient(application(api, Access("a-token-of-a-test", None))) as caller:
        caller.headers["Authorization"] = "Bearer a-token-of-a-test"
        paths = [f"/v1/batches/{batch}{what}" for what in ("", "/jobs?limit=100", "/results", "/results?format=csv")]
        for path in (*paths, "/v1/batches", "/v1/costs", "/v1/keys", "/v1/workers", "/v1/providers", "/metrics"):
            answer = caller.get(path)
            assert answer.status_code == 200, path
            assert MARK not in answer.content + str(answer.headers).encode(), path
    database.close()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    for path in written:
        assert MARK not in path.read_bytes(), path


def test_no_process_of_the_local_stack_but_the_workers_is_given_keys(
    config: Path,
    server: ThreadingHTTPServer,
    write_lines: Callable[..., Path],
    start: Callable[..., Any],
    tmp_path: Path,
) -> None:
    server.gate.clear()  # type: ignore[attr-defined]
    prompts = write_lines([{"id": "a", "provider": "openai", "model": "gpt-a", "prompt": "good"}])
    run = start("run", prompts, "-c", config, ECHOED=KEY, CRASHED=CRASH_KEY, OPENAI_API_KEY=UNRELATED)

    def others() -> list[psutil.Process]:
        children = psutil.Process(run.pid).children(recursive=True)
        return [one for one in children if "valkey" in " ".join(one.cmdline())]

    wait_for(lambda: len(others()) == 2, "Valkey and its watcher to run", 30)
    for process in others():
        assert not any(MARK.decode() in value for value in process.environ().values()), process.cmdline()
    for process in psutil.Process(run.pid).children(recursive=True):
        assert not any(MARK.decode() in word for word in process.cmdline())
    server.gate.set()  # type: ignore[attr-defined]
    assert run.wait(60) == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert MARK not in path.read_bytes(), path
