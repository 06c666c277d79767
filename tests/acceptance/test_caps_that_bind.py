"""A cap binds whatever the server bills: more output than it was asked for, input of its own, or nothing that it reports."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from models.store.budgets import ANSWERS_A_CALL, FIRST_CALLS
from tests.servers import Valkey, wait_for

Usage = Mapping[str, int] | None
PRICE = {"input_token_cost": "0.1", "output_token_cost": "0.1"}
"""In USD: 1,000 tokens cost 0.1, whichever they are."""


class Server(ThreadingHTTPServer):
    """Speaks OpenAI's dialect and bills what `usage` returns for a body. Calls wait while `gate` is closed."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, usage: Callable[[dict[str, Any]], Usage]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.usage = usage
        self.gate = threading.Event()
        self.gate.set()
        self.lock = threading.Lock()
        self.calls = 0
        self.waiting = 0
        self.billed_tokens = 0
        self.refusal: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def billed(self) -> Decimal:
        return Decimal(self.billed_tokens) / 1000 * Decimal("0.1")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.calls += 1
            self.server.waiting += 1
        self.server.gate.wait(60)
        if self.server.refusal is not None:
            self._send(json.dumps(self.server.refusal), "application/json", status=self.server.refusal["status"])
            return
        usage = self.server.usage(body)
        with self.server.lock:
            self.server.waiting -= 1
            self.server.billed_tokens += sum((usage or {}).values())
        if body.get("stream"):
            chunk = {"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}]}
            told = [{"choices": [], "usage": usage}] if usage else []
            events = [f"data: {json.dumps(one)}\n\n" for one in (chunk, *told)]
            self._send("".join([*events, "data: [DONE]\n\n"]), "text/event-stream")
            return
        message = {"role": "assistant", "content": "ok"}
        reply: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        self._send(json.dumps({**reply, **({"usage": usage} if usage else {})}), "application/json")

    def _send(self, text: str, kind: str, *, status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(usage: Callable[[dict[str, Any]], Usage]) -> Iterator[Server]:
    server = Server(usage)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()


def tokens(given: int, made: int) -> Usage:
    return {"prompt_tokens": given, "completion_tokens": made}


@pytest.fixture
def config(write_config: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a configuration with the provider `it` at a server; `model` are settings of its model."""

    def write(server: Server, **more: Any) -> Path:
        key = {"id": "k", "secret": "s", "pricing": PRICE}
        settings = {"it": {"type": "openai", "base_url": server.url, **more.pop("it", {})}}
        return write_config(server.url, providers=["it"], keys={"it": [key]}, settings=settings, **more)

    return write


@pytest.fixture
def capped(
    quick_cli: Callable[..., subprocess.CompletedProcess[str]], write_lines: Callable[..., Path]
) -> Callable[..., str]:
    """Runs so many lines under a cap, which has to pause them. Returns what the run printed to stderr."""

    def run(config: Path, number: int, most: str, **fields: Any) -> str:
        lines = write_lines(
            [{"model": "m", "prompt": f"Question {n}", "provider": "it", **fields} for n in range(number)]
        )
        done = quick_cli("run", lines, "--max-cost", most, "-c", config)
        assert done.returncode == 3, done.stderr
        assert "of its cap" in done.stdout
        return done.stderr

    return run


def test_few_of_many_calls_leave_before_the_first_answers(
    config: Callable[..., Path],
    write_lines: Callable[..., Path],
    start: Callable[..., Any],
    quick_cli: Callable[..., subprocess.CompletedProcess[str]],
    valkey: Valkey,
    postgres_url: str,
) -> None:
    """Two workers, 128 at once each, no bound on the answers."""
    with serving(lambda _: tokens(10, 1500)) as server:
        server.gate.clear()
        path = config(server, worker={"concurrency": 128})
        urls = {"TRUCKLLM_REDIS_URL": valkey.url, "TRUCKLLM_DATABASE_URL": postgres_url}
        assert quick_cli("db", "upgrade", "-c", path, **urls).returncode == 0
        lines = write_lines([{"model": "m", "prompt": f"Question {n}", "provider": "it"} for n in range(300)])
        submitted = quick_cli("submit", lines, "--max-cost", "1", "-c", path, **urls)
        assert "300 lines have no max_tokens" in submitted.stderr
        for _ in range(2):
            start("worker", "-c", path, **urls)

        def status() -> dict[str, Any]:
            shown: dict[str, Any] = json.loads(quick_cli("status", 1, "--json", "-c", path, **urls).stdout)
            return shown

        wait_for(lambda: status()["waiting"] is not None, "the first calls to be waited for", 60)
        assert status()["waiting"] == "waiting for the first answers, because of the cap"
        assert server.waiting == FIRST_CALLS
        server.gate.set()
        wait_for(lambda: status()["status"] == "paused" and not server.waiting, "the cap to pause the batch", 60)
        wait_for(lambda: status()["running"] == 0, "the last call to be stored", 30)
        end = status()
    assert end["waiting"] is None
    assert end["cap"]["most"] == 10**9
    assert end["cap"]["spent"] == sum(end["costs"].values()) == round(server.billed * 10**9)
    # an answer costs 0.151 and was estimated at 0.1004 or so
    assert Decimal("0.6") < server.billed <= 1 + FIRST_CALLS * Decimal("0.051")


@pytest.mark.parametrize("stream", [pytest.param(False, marks=pytest.mark.full), True])
def test_answers_without_usage_count_as_their_reservations(
    config: Callable[..., Path], capped: Callable[..., str], stream: bool
) -> None:
    with serving(lambda _: None) as server:
        capped(config(server), 200, "0.2", max_tokens=100, **({"stream": True} if stream else {}))
    assert 15 <= server.calls <= 20, "each may have cost 0.01, and a little for its input"


@pytest.mark.full
def test_a_server_that_ignores_the_bound_is_known_by_its_first_answers(
    config: Callable[..., Path], capped: Callable[..., str]
) -> None:
    with serving(lambda _: tokens(5, 10_000)) as server:
        said = capped(config(server), 200, "0.05", max_tokens=10)
    assert server.calls <= FIRST_CALLS
    assert f"by what the first calls ({FIRST_CALLS}, or one each of up to 16 models) cost more than estimated" in said


@pytest.mark.full
def test_the_longest_output_of_a_model_is_reserved_until_its_bound_is_proven(
    config: Callable[..., Path], capped: Callable[..., str]
) -> None:
    with serving(lambda _: tokens(5, 10_000)) as server:
        capped(config(server, it={"models": {"m": {"max_output_tokens": 10_000}}}), 50, "0.05", max_tokens=10)
    assert server.calls == 1, "the cap has no room for 10,000 tokens, so one call tries whether the bound holds"
    with serving(lambda _: tokens(5, 10_000)) as server:
        capped(config(server, it={"models": {"m": {"max_output_tokens": 10_000}}}), 50, "5.5")
    assert server.billed <= Decimal("5.5")


@pytest.mark.parametrize("fields", [{"max_tokens": 10}, pytest.param({}, marks=pytest.mark.full)])
def test_a_server_that_turns_dear_after_many_answers_exceeds_the_cap_by_few_calls(
    config: Callable[..., Path], capped: Callable[..., str], fields: dict[str, int]
) -> None:
    cheap, dear = tokens(5, 10), tokens(5, 10_000)
    answers = itertools.count(1)
    with serving(lambda _: cheap if next(answers) <= 40 else dear) as server:
        capped(config(server, it={"default_output_tokens": 20}), 300, "2", **fields)
    most = FIRST_CALLS + 40 // ANSWERS_A_CALL
    assert 40 < server.calls <= 40 + most
    assert server.billed <= 2 + most * Decimal("1.0005")


@pytest.mark.full
def test_input_that_the_server_adds_is_known_by_its_first_answers(
    config: Callable[..., Path], capped: Callable[..., str]
) -> None:
    with serving(lambda _: tokens(1000, 1)) as server:
        capped(config(server), 200, "1", max_tokens=1)
    assert Decimal("0.7") < server.billed <= 1


def test_rows_of_a_capped_route_go_to_the_candidate_that_has_a_price(
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    quick_cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with (
        serving(lambda _: tokens(5, 5)) as free,
        serving(lambda _: tokens(5, 5)) as euro,
        serving(lambda _: tokens(5, 5)) as priced,
    ):
        settings = {
            name: {"type": "openai", "base_url": server.url}
            for name, server in (("free", free), ("euro", euro), ("priced", priced))
        }
        keys = {
            "free": [{"id": "k", "secret": "a"}],
            "euro": [{"id": "k", "secret": "b", "pricing": {**PRICE, "currency": "EUR"}}],
            "priced": [{"id": "k", "secret": "c", "pricing": PRICE}],
        }
        path = write_config(
            free.url,
            providers=list(settings),
            keys=keys,
            settings=settings,
            routes={"r": {"candidates": ["free/m", "euro/m", "priced/m"]}},
        )
        lines = write_lines([{"route": "r", "prompt": f"Question {n}", "max_tokens": 5} for n in range(20)])
        done = quick_cli("run", lines, "--max-cost", "5", "-c", path)
    assert done.returncode == 0, done.stderr
    assert (free.calls, euro.calls, priced.calls) == (0, 0, 20)


def test_rows_of_a_capped_route_end_where_the_only_candidate_with_a_price_refuses_them(
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    quick_cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with serving(lambda _: tokens(5, 5)) as free, serving(lambda _: tokens(5, 5)) as priced:
        priced.refusal = {"status": 403, "detail": "Forbidden"}
        settings = {
            name: {"type": "openai", "base_url": server.url} for name, server in (("free", free), ("priced", priced))
        }
        keys = {"free": [{"id": "k", "secret": "a"}], "priced": [{"id": "k", "secret": "c", "pricing": PRICE}]}
        path = write_config(
            free.url,
            providers=list(settings),
            keys=keys,
            settings=settings,
            routes={"r": {"candidates": ["free/m", "priced/m"]}},
        )
        lines = write_lines([{"route": "r", "prompt": f"Question {n}", "max_tokens": 5} for n in range(3)])
        done = quick_cli("run", lines, "--max-cost", "5", "-c", path)
    assert done.returncode == 1, done.stderr
    assert free.calls == 0
    assert priced.calls <= 3 * 2


def test_a_capped_route_without_any_price_is_paused_with_the_reason(
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    quick_cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with serving(lambda _: tokens(5, 5)) as server:
        names = ["one", "two"]
        path = write_config(
            server.url,
            providers=names,
            keys={name: [{"id": "k", "secret": name}] for name in names},
            settings={name: {"type": "openai", "base_url": server.url} for name in names},
            routes={"r": {"candidates": ["one/m", "two/m"]}},
        )
        lines = write_lines([{"route": "r", "prompt": f"Question {n}"} for n in range(5)])
        done = quick_cli("run", lines, "--max-cost", "5", "-c", path)
    assert done.returncode == 3, done.stderr
    assert "a call has no price in USD, so its cost can't be capped" in done.stdout
    assert "a price in the configuration, then `truckllm resume 1`, lets it go on" in done.stdout
    again = quick_cli("submit", lines, "--max-cost", "5", "-c", path)
    assert "batch 1: 5 jobs, found, and stays paused" in again.stderr
    assert server.calls == 0


@pytest.mark.full
def test_short_answers_without_a_bound_use_the_cap_up(config: Callable[..., Path], capped: Callable[..., str]) -> None:
    with serving(lambda _: tokens(10, 20)) as server:
        capped(config(server), 200, "0.3")
    assert Decimal("0.28") < server.billed <= Decimal("0.3"), "each was estimated at 0.1 before the first answers"
