"""`truckllm models` against a server that tells shutdown dates, and the warnings that `submit` makes of them without asking."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from models.model_lists import SOON, ModelList, keep, kept, retirement
from models.request import ModelInfo
from tests.servers import SandboxProcess

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


def in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%d")


@pytest.fixture
def vendor() -> Iterator[Any]:
    """An OpenAI-compatible list of models; takes one key. `asked` counts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked += 1  # type: ignore[attr-defined]
            good = self.headers["Authorization"] == "Bearer sk-good-1"
            models = [
                {"id": "old-1", "object": "model", "shutdown_date": in_days(10)},
                {"id": "new-1", "object": "model"},
                {"id": "later-1", "object": "model", "shutdown_date": in_days(400)},
            ]
            body = json.dumps({"data": models} if good else {"error": {"code": "invalid_api_key", "message": "no"}})
            self.send_response(200 if good else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def config(vendor: Any, write_config: Callable[..., Path]) -> Path:
    keys = [{"id": "bad", "secret": "sk-bad-1"}, {"id": "good", "secret": "sk-good-1"}]
    return write_config(
        "http://x",
        providers=["openai"],
        keys={"openai": keys},
        settings={"openai": {"base_url": f"http://127.0.0.1:{vendor.server_port}/v1", "models": ["new-1"]}},
    )


def test_models_are_listed_with_their_last_day_and_their_users(cli: Cli, config: Path, write_lines: Any) -> None:
    assert cli("submit", write_lines([{"prompt": "a", "model": "old-1"}]), "-c", config).returncode == 0
    run = cli("models", "--json", "-c", config)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["models"] == [
        {"provider": "openai", "id": "later-1", "retires_at": in_days(400), "used_by": []},
        {"provider": "openai", "id": "new-1", "retires_at": None, "used_by": ["config"]},
        {"provider": "openai", "id": "old-1", "retires_at": in_days(10), "used_by": ["batch 1"]},
    ]
    assert f"model old-1 will be shut down on {in_days(10)}" in run.stderr
    table = cli("models", "openai", "--used", "-c", config).stdout
    assert "old-1" in table
    assert "later-1" not in table


def test_submit_warns_of_a_model_that_ends_soon_and_asks_nobody(
    cli: Cli, config: Path, write_lines: Any, vendor: Any
) -> None:
    old = write_lines([{"prompt": "a", "model": "old-1"}], "old.jsonl")
    assert "shut down" not in cli("submit", old, "-c", config).stderr
    assert vendor.asked == 0
    cli("models", "-c", config)
    asked = vendor.asked
    assert "old-1 will be shut down" in cli("submit", old, "--new", "-c", config).stderr
    for name in ("new-1", "later-1"):
        fine = write_lines([{"prompt": "a", "model": name}], f"{name}.jsonl")
        assert "shut down" not in cli("submit", fine, "-c", config).stderr
    assert vendor.asked == asked


def test_days_of_shutdown_are_said_for_each_provider_that_tells_them_and_gone_models_fail(
    cli: Cli, start_sandbox: Callable[..., SandboxProcess], write_config: Callable[..., Path], write_lines: Any
) -> None:
    ends = {"gpt-4o": in_days(10), "claude-haiku-4-5": f"{in_days(20)}T00:00:00Z", "gemini-3.5-flash": in_days(30)}
    sandbox = start_sandbox(retirements={**ends, "gpt-4o-mini": in_days(-1)})
    models = {"openai": "gpt-4o", "gemini": "gemini-3.5-flash", "claude": "claude-haiku-4-5"}
    config = write_config(sandbox.url)
    assert cli("models", "-c", config).returncode == 0
    lines = [{"prompt": "a", "model": name, "provider": provider} for provider, name in models.items()]
    gone = {"prompt": "a", "model": "gpt-4o-mini", "provider": "openai"}
    run = cli("run", write_lines([*lines, gone]), "--json", "-c", config)
    assert f"openai says that model gpt-4o will be shut down on {in_days(10)}" in run.stderr
    assert f"openai says that model gpt-4o-mini was to be shut down on {in_days(-1)}" in run.stderr
    assert f"claude says that model claude-haiku-4-5 will be shut down on {in_days(20)}" in run.stderr
    assert "gemini says" not in run.stderr, "Google's list of models tells no such day"
    seen = json.loads(run.stdout)
    assert (run.returncode, seen["succeeded"], seen["failed"]) == (1, 3, 1)


def test_doctor_keeps_the_list_too(cli: Cli, config: Path, write_lines: Any, tmp_path: Path) -> None:
    old = write_lines([{"prompt": "a", "model": "old-1"}])
    cli("submit", old, "-c", config)
    assert cli("doctor", "--keys", "-c", config).returncode == 2  # of the bad key
    assert set(kept(tmp_path / "home")) == {"openai"}
    assert "old-1 will be shut down" in cli("submit", old, "--new", "-c", config).stderr


def test_a_provider_that_gives_no_list_ends_with_2_and_says_why(cli: Cli, write_config: Callable[..., Path]) -> None:
    run = cli("models", "-c", write_config("http://127.0.0.1:1", providers=["openai"]))
    assert run.returncode == 2
    assert "openai: no answer from http://127.0.0.1:1/openai/v1" in run.stderr


def test_lists_are_kept_by_provider_and_damage_is_no_list(tmp_path: Path) -> None:
    assert kept(tmp_path) == {}
    one, other = (ModelList(name, "u", 1.0, (ModelInfo("m", None),)) for name in ("a", "b"))
    keep(tmp_path, [one])
    keep(tmp_path, [other])
    assert kept(tmp_path) == {"a": one, "b": other}
    (tmp_path / "models.json").write_text('{"a": [1]}')
    assert kept(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "day"), [("2027-01-01T00:00:00Z", 1), ("2027-01-02", 2), ("next year", None), (None, None)]
)
def test_dates_are_read_as_providers_write_them(text: str | None, day: int | None) -> None:
    date = retirement(ModelInfo("m", text))
    assert (date.day if date else None) == day
    assert date is None or date.tzinfo is not None
    assert timedelta(days=30) < SOON
