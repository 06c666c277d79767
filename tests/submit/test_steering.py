"""Steering with real processes: a pause is felt within two seconds, and resuming goes on where it stopped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import SandboxProcess, wait_for

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


def test_a_pause_stops_sending_within_two_seconds_and_run_goes_on_after_resume(
    cli: Cli,
    start: Start,
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.05)
    key = {"id": "openai-1", "secret": "sk-steered-1", "limit_req_per_min": 1200, "limit_tokens_per_min": 10_000_000}
    config = write_config(sandbox.url, providers=["openai"], keys={"openai": [key]})
    prompts = write_lines([{"prompt": f"say {n}", "model": "gpt-4o"} for n in range(150)])
    running = start("run", prompts, "-c", config)
    wait_for(lambda: len(sandbox.log()) >= 10, "the first calls")
    paused = cli("pause", 1, "-c", config)
    assert paused.returncode == 0, paused.stderr
    then = len(sandbox.log())
    assert running.wait(60) == 3
    before = len(sandbox.log())
    assert before < 150
    assert before - then <= 2 * 20, "what leaves in two seconds; while a machine stands still nothing does"
    output = (tmp_path / "process0.output").read_text()
    assert "paused by hand" in output
    assert "`truckllm resume 1`" in output
    again = cli("run", prompts, "-c", config)
    assert again.returncode == 3
    assert "is paused" in again.stderr
    assert len(sandbox.log()) == before
    assert cli("resume", 1, "-c", config).returncode == 0
    done = cli("run", prompts, "-c", config)
    assert done.returncode == 0, done.stderr
    assert len(sandbox.log()) == 150


def test_a_disabled_key_gets_no_call_and_an_enabled_one_does_again(
    cli: Cli,
    start: Start,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    valkey_url: str,
) -> None:
    keys = [{"id": f"oa-{n}", "secret": f"sk-steered-{n}"} for n in (1, 2)]
    config = write_config(sandbox.url, providers=["openai"], keys={"openai": keys}, redis_url=valkey_url)
    for key in ("openai/oa-1", "openai/oa-2"):
        assert cli("keys", "disable", key, "-c", config).returncode == 0
    assert "already" in cli("keys", "disable", "openai/oa-1", "-c", config).stderr
    start("worker", "-c", config)
    prompts = write_lines([{"prompt": f"say {n}", "model": "gpt-4o"} for n in range(30)])
    blocked = cli("run", prompts, "-c", config)
    assert blocked.returncode == 3
    assert "disabled by hand" in blocked.stdout
    assert sandbox.log() == []
    assert cli("keys", "enable", "openai/oa-1", "-c", config).returncode == 0
    done = cli("run", prompts, "-c", config)
    assert done.returncode == 0, done.stderr
    assert len(sandbox.log()) == 30
    assert len({call["key_id"] for call in sandbox.log()}) == 1
    listed = json.loads(cli("keys", "--json", "-c", config).stdout)["keys"]
    assert [(key["state"], key["reason"]) for key in listed] == [("active", ""), ("quarantined", "disabled by hand")]


def test_a_key_is_named_by_provider_and_id(cli: Cli, write_config: Callable[..., Path]) -> None:
    config = write_config("http://127.0.0.1:1")
    for wrong, said in (("oa-1", "PROVIDER/KEY"), ("nobody/oa-1", "no provider"), ("openai/oa-9", "has no key")):
        run = cli("keys", "disable", wrong, "-c", config)
        assert run.returncode == 2
        assert said in run.stderr


def test_a_drained_worker_finishes_its_calls_and_ends_and_is_not_started_again(
    cli: Cli,
    start: Start,
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    valkey_url: str,
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=3.0)
    config = write_config(sandbox.url, providers=["openai"], redis_url=valkey_url)
    prompts = write_lines([{"prompt": f"say {n}", "model": "gpt-4o"} for n in range(8)])
    crew = start("worker", "--processes", 2, "-c", config)

    def workers() -> list[dict[str, Any]]:
        return list(json.loads(cli("workers", "--json", "-c", config).stdout)["workers"])

    wait_for(lambda: len(workers()) == 2, "two workers")
    assert cli("submit", prompts, "-c", config).returncode == 0
    wait_for(lambda: len(sandbox.log()) == 8, "all calls in flight")
    for worker in workers():
        assert cli("workers", "drain", worker["id"], "-c", config).returncode == 0
    assert crew.wait(60) == 0
    assert workers() == []
    assert (tmp_path / "process0.output").read_text().count("has ended, as it was told to") == 2
    status = json.loads(cli("status", 1, "--json", "-c", config).stdout)
    assert (status["status"], status["succeeded"]) == ("completed", 8)
    assert len(sandbox.log()) == 8
    assert cli("workers", "drain", 99, "-c", config).returncode == 2
