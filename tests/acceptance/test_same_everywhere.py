"""The same file, the same results: on the local stack, and on Redis and PostgreSQL with workers started one by one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.servers import SandboxProcess, Valkey, wait_for

MODELS = {"openai": "gpt-a", "gemini": "gemini-a", "claude": "claude-a"}
LINES = 2000
VARIES = ("latency_ms", "key_id", "attempts")
"""What may differ between two runs of the same prompts."""


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


def lines() -> list[dict[str, Any]]:
    providers = list(MODELS)
    return [
        {"id": f"row-{n}", "provider": providers[n % 3], "model": MODELS[providers[n % 3]], "prompt": f"Item {n}?"}
        for n in range(LINES)
    ]


def results(path: Path) -> list[dict[str, Any]]:
    read = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in result.items() if name not in VARIES} for result in read]


@pytest.mark.full
@pytest.mark.timeout(180)
def test_the_local_stack_and_a_cluster_give_the_same_results(
    sandbox: SandboxProcess,
    valkey: Valkey,
    postgres_url: str,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., Any],
    tmp_path: Path,
) -> None:
    config = write_config(sandbox.url)
    prompts = write_lines(lines())

    local = cli("run", prompts, "-c", config, "-o", "local.jsonl", seconds=90)
    assert local.returncode == 0, local.stderr
    alone = Database(f"sqlite:///{tmp_path}/home/truckllm.db")
    assert len(assert_ledger_is_the_log(alone, sandbox)) == LINES
    alone.close()
    sandbox.reset()

    urls = {"TRUCKLLM_REDIS_URL": valkey.url, "TRUCKLLM_DATABASE_URL": postgres_url}
    migrated = cli("db", "upgrade", "-c", config, **urls)
    assert migrated.returncode == 0, migrated.stderr
    start("worker", "--provider", "openai", "--provider", "gemini", "-c", config, **urls)
    start("worker", "--provider", "claude", "-c", config, **urls)
    database = Database(postgres_url)

    def workers() -> list[Any]:
        with database.read() as connection:
            return list(connection.execute(sa.text("SELECT queues, tickets FROM workers ORDER BY queues")))

    wait_for(lambda: len(workers()) == 2, "two workers")
    submitted = cli("submit", prompts, "-c", config, **urls)
    assert submitted.returncode == 0, submitted.stderr
    batch = submitted.stdout.strip().splitlines()[-1]

    def status() -> str:
        with database.read() as connection:
            return str(connection.execute(sa.text("SELECT status FROM batches")).scalar_one())

    wait_for(lambda: status() == "completed", "the batch to be completed", 90)
    written = cli("results", batch, "-o", "cluster.jsonl", "-c", config, **urls)
    assert written.returncode == 0, written.stderr

    here, there = results(tmp_path / "local.jsonl"), results(tmp_path / "cluster.jsonl")
    assert len(here) == LINES
    assert here == there
    assert len(assert_ledger_is_the_log(database, sandbox)) == LINES

    wait_for(lambda: all(row.tickets > 0 for row in workers()), "both Celery consumers to have taken tickets", 30)
    with valkey.client() as client:
        queues = {key.decode() for key in client.smembers("truckllm:_kombu.binding.provider.openai")}
    assert queues, "the queue of a provider is a Celery queue of its own"
    database.close()
