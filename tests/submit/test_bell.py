"""Ringing: how many tickets for whom, what a ticket looks like in the queue, and that a silent broker costs a warning only."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from submit import bell
from submit.cli import vigil
from submit.lines import line
from submit.producer import submit_batch
from submit.progress import snapshot
from tests.servers import Valkey
from tests.worker_by_hand import WorkerByHand

CONFIG = """
providers:
  - {id: openai, keys: [{id: oa-1, secret: s-1, limit_req_per_min: 1, limit_tokens_per_min: 1, pricing: &free {input_token_cost: 0, output_token_cost: 0}}]}
  - {id: claude, keys: [{id: cl-1, secret: s-2, limit_req_per_min: 1, limit_tokens_per_min: 1, pricing: *free}]}
routes:
  both: {candidates: [openai/gpt-4o, claude/claude-x, openai/gpt-4o-mini]}
"""


@pytest.fixture
def config() -> Config:
    return load_config_text(CONFIG)


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    database = open_database(f"sqlite:///{tmp_path}/only.db")
    yield database
    database.close()


@pytest.fixture
def queue(valkey_url: str) -> Iterator[Callable[[str], list[dict[str, object]]]]:
    """The tickets in a provider's queue, and empties it."""
    client = redis.Redis.from_url(valkey_url)

    def read(provider: str) -> list[dict[str, object]]:
        name = f"truckllm:provider.{provider}"
        messages = [json.loads(raw) for raw in client.lrange(name, 0, -1)]
        client.delete(name)
        return messages

    yield read
    client.close()


@pytest.mark.parametrize(
    ("rows", "serving", "expected"),
    [
        ({"openai": 1}, {}, {"openai": 1}),
        ({"openai": 1000}, {}, {"openai": 1}),
        ({"openai": 1000}, {"openai": 4}, {"openai": 4}),
        ({"openai": 250}, {"openai": 40}, {"openai": 3}),
        ({"both": 100}, {"openai": 2, "claude": 2}, {"openai": 1, "claude": 1}),
        ({"both": 100, "claude": 101}, {"openai": 9, "claude": 9}, {"openai": 1, "claude": 3}),
        ({"openai": 0, "gone": 5}, {}, {}),
    ],
)
def test_enough_tickets_to_wake_every_worker_and_no_more_than_work(
    config: Config, rows: dict[str, int], serving: dict[str, int], expected: dict[str, int]
) -> None:
    assert bell.tickets(config, rows, serving) == expected


def test_only_workers_with_a_fresh_heartbeat_count(sqlite: Database) -> None:
    WorkerByHand(sqlite)
    WorkerByHand(sqlite)
    WorkerByHand(sqlite, "claude")
    with sqlite.read() as connection:
        assert bell.live_workers(connection, time.time()) == {"openai": 2, "claude": 1}
        assert bell.live_workers(connection, time.time() + 46) == {}


def test_a_submission_puts_tickets_into_the_queues_of_its_providers(
    config: Config, sqlite: Database, valkey_url: str, queue: Callable[[str], list[dict[str, object]]]
) -> None:
    for _ in range(3):
        WorkerByHand(sqlite)
    lines = [{"prompt": f"{n}", "model": "gpt-4o"} for n in range(150)]
    done = submit_batch(lines, config=config.model_copy(update={"redis_url": valkey_url}), database=sqlite)
    assert done.warnings == ()
    messages = queue("openai")
    assert len(messages) == 2
    assert queue("claude") == []
    headers = messages[0]["headers"]
    assert isinstance(headers, dict)
    assert headers["task"] == "truckllm.drain"
    arguments, named, _ = json.loads(base64.b64decode(str(messages[0]["body"])))
    assert (arguments, named) == ([], {"provider": "openai", "hops": 0})


def test_a_submission_that_is_not_to_ring_does_not(
    config: Config, sqlite: Database, valkey_url: str, queue: Callable[[str], list[dict[str, object]]]
) -> None:
    settings = config.model_copy(update={"redis_url": valkey_url})
    submit_batch([{"prompt": "x", "model": "gpt-4o"}], config=settings, database=sqlite, ring=False)
    assert queue("openai") == []


def test_providers_that_no_live_worker_serves_are_named(config: Config, sqlite: Database, valkey_url: str) -> None:
    WorkerByHand(sqlite)
    lines = [{"prompt": "x", "route": "both"}]
    done = submit_batch(lines, config=config.model_copy(update={"redis_url": valkey_url}), database=sqlite)
    assert done.warnings == ("no live worker serves claude: start one with `truckllm worker`",)


@pytest.mark.parametrize("url", ["redis://:hunter2@127.0.0.1:1/0", "unix:///nowhere/at/all?password=hunter2"])
def test_a_broker_that_is_down_costs_a_warning_without_its_password_and_no_job(
    config: Config, sqlite: Database, url: str
) -> None:
    settings = config.model_copy(update={"redis_url": url})
    began = time.monotonic()
    done = submit_batch([{"prompt": "x", "model": "gpt-4o"}], config=settings, database=sqlite)
    assert time.monotonic() - began < 15
    assert done.found == "new"
    assert any("could not wake the workers" in warning for warning in done.warnings)
    assert "hunter2" not in str(done.warnings)


def test_a_broker_that_does_not_answer_is_given_up_after_seconds(valkey: Valkey) -> None:
    import os
    import signal

    os.kill(valkey.process.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert bell.ring(valkey.url, {"openai": 1}) is not None
        assert time.monotonic() - began < 30
    finally:
        os.kill(valkey.process.pid, signal.SIGCONT)


def test_a_run_that_stands_still_says_that_redis_is_away_until_it_is_back(
    sqlite: Database, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "LOOK_SECONDS", 0.0)
    config = load_config_text(f"redis_url: {valkey.url}\n{CONFIG}")
    batch = submit_batch([{"prompt": "hello", "model": "gpt-4o"}], config=config, database=sqlite).batch_id
    watching = vigil.Vigil(sqlite, config, None, lambda _sentence: None)

    def told() -> str:
        with sqlite.read() as connection:
            return line(watching.tick(snapshot(connection, batch, config, sqlite.now(connection))))

    assert "Redis" not in told()
    valkey.kill()
    assert "Redis does not answer (ConnectionError): no new call starts until it does" in told()
    valkey.start()
    assert "Redis" not in told()


def test_a_redis_that_refuses_is_not_called_away(valkey: Valkey) -> None:
    assert bell.unheard(f"{valkey.url}?db=3") is None
    assert bell.unheard(f"{valkey.url}?db=99") == (
        "Redis refuses this (DB index is out of range): no new call starts until redis_url or the server is mended"
    )
    refused = bell.unheard(f"{valkey.url}?username=nobody&password=sk-canary-redis")
    assert refused is not None
    assert "canary" not in refused
