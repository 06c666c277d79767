"""A planted key is found nowhere: no database, Redis, log, table, export, error, or command line holds it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from models.database import Database
from tests.conftest import SECRETS
from tests.servers import SandboxProcess, Valkey, wait_for

MODELS = {"openai": "gpt-a", "gemini": "gemini-a", "claude": "claude-a"}
CANARY = "canary"
"""In every planted secret, and in nothing else that these tests write."""


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


def test_no_secret_is_written_or_shown_anywhere(
    start_sandbox: Callable[..., SandboxProcess],
    valkey: Valkey,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., Any],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox()
    # refused keys, echoed by the provider or not, server errors and good answers
    sandbox.faults(
        {"kind": "key_invalid", "provider": "gemini"},
        {"kind": "status", "status": 401, "provider": "claude", "times": 3},
        {"kind": "status", "status": 500, "provider": "openai", "times": 3},
        {"kind": "rubbish", "provider": "openai", "times": 2},
    )
    config = write_config(sandbox.url)
    lines = [
        {"id": f"{p}-{n}", "provider": p, "model": MODELS[p], "prompt": f"Q {n}"} for n in range(20) for p in MODELS
    ]
    prompts = write_lines(lines)
    url = {"TRUCKLLM_REDIS_URL": valkey.url}
    worker = start("worker", "-c", config, **url)
    submitted = cli("submit", prompts, "-c", config, **url)
    assert submitted.returncode == 0, submitted.stderr
    batch = submitted.stdout.split()[-1]
    database = Database(f"sqlite:///{environment['TRUCKLLM_HOME']}/truckllm.db")

    def settled() -> bool:
        with database.read() as connection:
            done = connection.execute(sa.text("SELECT count(*) FROM jobs WHERE status = 'succeeded'")).scalar_one()
            out = connection.execute(sa.text("SELECT count(*) FROM key_states WHERE provider = 'gemini'")).scalar_one()
        return bool(done == 40 and out == 1)

    wait_for(settled, "two providers to finish, the third to lose its key", 60)
    said = [
        cli(*words, "-c", config, **url)
        for words in (
            ("status", batch),
            ("status", batch, "--json"),
            ("jobs", batch, "--json"),
            ("costs", "--format", "csv"),
            ("costs", "--format", "json"),
            ("keys", "--json"),
            ("keys",),
            ("workers", "--json"),
            ("results", batch, "-o", "so-far.jsonl"),
            ("doctor", "--json"),
        )
    ]
    for process in psutil.Process(worker.pid).children(recursive=True):
        assert not any(CANARY in word for word in process.cmdline())
    worker.terminate()
    assert worker.wait(60) == 0

    for done in said:
        assert CANARY not in done.stdout + done.stderr, done.args
    with valkey.client() as client:
        for key in client.scan_iter("*"):
            assert CANARY.encode() not in key + (client.dump(key) or b"")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path != config]
    assert any(path.name == "truckllm.db" for path in written)
    for path in written:
        assert CANARY.encode() not in path.read_bytes(), path
    assert all(CANARY in secret for secret in SECRETS.values())
    database.close()
