"""`truckllm try` from end to end: real processes, the sandbox or a scripted server in the place of the provider.

How a call is shown as text is in tests/submit/test_calls.py, how keys are taken out in tests/worker/test_redaction.py.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import SandboxProcess, Valkey, wait_for

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
KEY = "canary-key-5b1c/7f3a91+q"
QUERY_KEY = "canary-query-9d2e44"
HEADER_KEY = "canary-gateway-1a2b3c"
MARK = "canary"
ANSWER = {
    "id": "chatcmpl-1",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
}
PLUGIN = """
from truckllm import Answer, JsonProvider, Usage

class Stumbling(JsonProvider):
    def path(self, request):
        return "/whatever"

    def write_body(self, wanted):
        return {"ask": wanted.messages()[0]["content"]}

    def read_answer(self, body):
        return Answer(text=undefined_name(body))
"""


class Scripted(BaseHTTPRequestHandler):
    """Answers by the word that the prompt begins with, and counts."""

    asked: list[str]
    released: threading.Event

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"] if "messages" in body else body["ask"]
        self.asked.append(prompt)
        told = f"{dict(self.headers)} {self.path}"
        if prompt.startswith("limited"):
            self.answer(429, {"error": {"message": f"slow down {told}"}}, **{"Retry-After": "7", "X-Echo": told})
        elif prompt.startswith("bad"):
            self.answer(400, {"error": {"message": "no such thing", "code": "odd"}})
        elif prompt.startswith("down"):
            self.answer(503, {"error": {"message": "overloaded"}})
        elif prompt.startswith("hang"):
            self.released.wait(60)
            self.answer(200, ANSWER)
        elif prompt.startswith("echo"):
            content = {"message": {"role": "assistant", "content": told}}
            self.answer(200, {**ANSWER, "echo": told, "choices": [{**ANSWER["choices"][0], **content}]})  # type: ignore[index]
        else:
            self.answer(200, ANSWER)

    def do_GET(self) -> None:
        self.answer(200, {"data": [{"id": "m"}]})

    def answer(self, status: int, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def released() -> threading.Event:
    """Ends the wait of calls that hang."""
    return threading.Event()


@pytest.fixture
def server(released: threading.Event) -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (Scripted,), {"asked": [], "released": released})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", handler.asked  # type: ignore[attr-defined]
    released.set()
    server.shutdown()
    server.server_close()


def traces(tmp_path: Path) -> int:
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "truckllm.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM traces").fetchone()[0])


def key(**more: Any) -> dict[str, Any]:
    price = {"input_token_cost": 0.001, "output_token_cost": 0.002}
    return {
        "id": "k",
        "secret": KEY,
        "limit_req_per_min": 600,
        "limit_tokens_per_min": 900_000,
        "pricing": price,
        **more,
    }


def configured(tmp_path: Path, *providers: dict[str, Any]) -> None:
    (tmp_path / "truckllm.yaml").write_text(yaml.safe_dump({"providers": list(providers)}))


@pytest.fixture
def scripted(tmp_path: Path, server: tuple[str, list[str]]) -> list[str]:
    """A configured provider `p` with three kinds of secrets; the prompts that it is asked."""
    configured(
        tmp_path,
        {
            "id": "p",
            "type": "openai",
            "base_url": server[0],
            "query": {"api-version": "2026-01", "subscription-key": QUERY_KEY},
            "headers": {"X-Gateway": HEADER_KEY},
            "models": {"m": {}},
            "keys": [key()],
        },
    )
    return server[1]


def test_the_sandbox_answers_in_every_form(cli: Cli, tmp_path: Path, sandbox: SandboxProcess) -> None:
    configured(
        tmp_path,
        {"id": "openai", "base_url": f"{sandbox.url}/openai/v1", "models": {"gpt-4o-mini": {}}, "keys": [key()]},
        {"id": "claude", "base_url": f"{sandbox.url}/claude/v1", "keys": [key(id="c")]},
    )
    streamed = cli("try", "openai", "Say hi", "--stream", "--max-tokens", 20)
    assert streamed.returncode == 0, streamed.stderr
    assert "> POST " in streamed.stdout
    assert "> authorization: Bearer ***" in streamed.stdout
    assert '>   "stream": true' in streamed.stdout
    assert "< data: {" in streamed.stdout
    assert "tokens in" in streamed.stdout
    vector = cli("try", "openai", "a text", "--embed", "--model", "text-embedding-3-small", "--json")
    shown = json.loads(vector.stdout)
    assert (vector.returncode, shown["status"], shown["text"]) == (0, "succeeded", None)
    assert shown["calls"][0]["url"].endswith("/embeddings")
    claude = json.loads(cli("try", "claude", "Say hi", "--model", "claude-haiku-4-5", "--json").stdout)
    (call,) = claude["calls"]
    assert (claude["status"], claude["key"], claude["failure"], claude["next"]) == ("succeeded", "c", None, None)
    assert call["headers"]["x-api-key"] == "***"
    assert call["reply"]["body"]["content"][0]["text"] == claude["text"]
    assert claude["cost"] > 0
    assert len(sandbox.log()) == 3
    assert KEY not in streamed.stdout + streamed.stderr + vector.stdout
    costs = json.loads(cli("costs", "--json").stdout)
    assert sum(row["calls"] for row in costs["rows"]) == 3  # it is in the ledger as any call is


def test_a_failed_call_is_shown_and_never_repeated(cli: Cli, scripted: list[str], tmp_path: Path) -> None:
    limited = cli("try", "p", "limited please")
    assert limited.returncode == 1, limited.stderr
    assert "< HTTP 429" in limited.stdout
    assert "< retry-after: 7" in limited.stdout
    assert "kind: rate_limit" in limited.stdout
    assert "next: an ordinary job is asked again after " in limited.stdout
    refused = json.loads(cli("try", "p", "bad idea", "--json").stdout)
    assert refused["error"] == {"code": "odd", "message": "no such thing"}
    assert (refused["failure"]["kind"], refused["failure"]["http_status"]) == ("bad_request", 400)
    assert (refused["next"]["fails"], refused["status"]) == (True, "failed")
    down = json.loads(cli("try", "p", "down", "--json").stdout)
    assert (down["failure"]["kind"], down["next"]["fails"]) == ("server", False)
    assert scripted == ["limited please", "bad idea", "down"]
    echo = cli("try", "p", "echo it")
    everything = echo.stdout + echo.stderr + limited.stdout + limited.stderr
    assert echo.returncode == 0, echo.stderr
    assert "subscription-key=***" in everything
    assert "api-version=2026-01" in everything
    assert "> x-gateway: ***" in everything
    assert MARK not in everything.lower()
    assert MARK not in cli("try", "p", "echo it", "--json").stdout.lower()
    assert traces(tmp_path) == 5
    deleted = cli("delete", 1)
    assert deleted.returncode == 0, deleted.stderr
    assert traces(tmp_path) == 4


@pytest.mark.parametrize("answered", [True, False])
def test_an_interrupted_call_is_cancelled_and_stays_in_the_ledger(
    start: Callable[..., subprocess.Popen[bytes]],
    scripted: list[str],
    released: threading.Event,
    tmp_path: Path,
    answered: bool,
) -> None:
    """A call that is answered within the grace has its cost; a second signal gives it up."""
    process = start("try", "p", "hang on")
    wait_for(lambda: scripted, "the call to arrive", 60)
    process.send_signal(signal.SIGINT)
    output = tmp_path / "process0.output"
    wait_for(lambda: "is cancelled" in output.read_text(), "the signal to be seen", 60)
    if answered:
        released.set()
    else:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "its call is under way, and the ledger will have it" in output.read_text()
    assert scripted == ["hang on"]
    with contextlib.closing(sqlite3.connect(tmp_path / "home" / "truckllm.db")) as connection:
        assert connection.execute("SELECT status FROM batches").fetchall() == [("cancelled",)]
        calls = connection.execute("SELECT outcome, cost_nanos FROM attempts").fetchall()
    price = 3 * 1_000 + 4 * 2_000
    assert calls == ([("succeeded", price)] if answered else [("unknown", None)])


def test_on_a_cluster_a_worker_elsewhere_makes_the_call(
    cli: Cli, start: Callable[..., subprocess.Popen[str]], scripted: list[str], tmp_path: Path, valkey: Valkey
) -> None:
    path = tmp_path / "truckllm.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "redis_url": valkey.url}))
    start("worker")
    shown = json.loads(cli("try", "p", "hello", "--json").stdout)
    assert (shown["status"], shown["text"], shown["cost"]) == ("succeeded", "Hi", 11_000)
    assert shown["calls"][0]["headers"]["authorization"] == "Bearer ***"
    assert shown["calls"][0]["reply"]["body"] == ANSWER
    assert scripted == ["hello"]


def test_a_plugins_bug_is_shown_with_its_traceback(cli: Cli, tmp_path: Path, server: tuple[str, list[str]]) -> None:
    (tmp_path / "stumbling.py").write_text(PLUGIN)
    block = {"id": "mine", "class": "stumbling:Stumbling", "base_url": server[0], "keyless": True, "models": {"m": {}}}
    configured(tmp_path, block)
    done = cli("try", "mine", "hello")
    assert done.returncode == 1, done.stderr
    assert '>   "ask": "hello"' in done.stdout
    assert "< HTTP 200" in done.stdout
    assert "the plugin raised:" in done.stdout
    assert "NameError: name 'undefined_name' is not defined" in done.stdout
    refused = cli("try", "mine", "hello", "--max-tokens", 5)
    assert refused.returncode == 1
    assert "nothing was sent" in refused.stdout
    assert "max_tokens" in refused.stdout
    assert server[1] == ["hello"]


def test_what_cant_be_tried_says_why(quick_cli: Cli, tmp_path: Path) -> None:
    block = {"base_url": "http://127.0.0.1:9/v1", "type": "openai", "keys": [key()]}
    configured(tmp_path, {"id": "none", **block}, {"id": "two", **block, "models": {"a": {}, "b": {}}})
    unknown = quick_cli("try", "nobody", "hello")
    assert unknown.returncode == 2
    assert "no provider 'nobody'" in unknown.stderr
    several = quick_cli("try", "two", "hello")
    assert (several.returncode, several.stdout) == (2, "")
    assert "two lists 2 models: add --model, one of a, b" in several.stderr
    unnamed = quick_cli("try", "none", "hello")
    assert unnamed.returncode == 2
    assert "none lists no models in the configuration: add --model MODEL" in unnamed.stderr
    mixed = quick_cli("try", "two", "hello", "--embed", "--stream", "--model", "a")
    assert mixed.returncode == 2


def test_a_cap_that_is_too_small_lets_nothing_leave(cli: Cli, scripted: list[str]) -> None:
    done = cli("try", "p", "hello", "--max-cost", "0.000001", "--max-tokens", 50)
    assert done.returncode == 3, done.stdout + done.stderr
    assert scripted == []
    assert "no call was made" in done.stderr
    listed = json.loads(cli("status", "--json").stdout)
    assert [batch["status"] for batch in listed["batches"]] == ["cancelled"]
