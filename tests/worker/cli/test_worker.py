"""`truckllm worker` as a process: one, several, on the local stack or beside a Redis server; how it stops and what it refuses."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.processes import started

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]


def wait_until(true: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.02)
    return value


@pytest.fixture
def live(cli: Cli) -> Callable[[], list[dict[str, Any]]]:
    """The live workers, as `truckllm workers` tells."""

    def ask() -> list[dict[str, Any]]:
        return [row for row in json.loads(cli("workers", "--json").stdout)["workers"] if row["alive"]]

    return ask


Live = Callable[[], list[dict[str, Any]]]


def test_without_a_redis_url_it_runs_the_local_stack_and_ends_it(
    start: Start,
    cli: Cli,
    live: Live,
    sandbox: Any,
    write_config: Callable[..., Path],
    write_lines: Any,
    tmp_path: Path,
) -> None:
    config = write_config(sandbox.url)
    worker = start("worker", "-c", config)
    [row] = wait_until(live, "a live worker")
    assert psutil.Process(row["pid"]).ppid() == worker.pid
    prompts = write_lines([{"model": "gpt-4o", "prompt": str(n)} for n in range(20)])
    done = cli("run", prompts, "-c", config, "--json")
    assert done.returncode == 0, done.stderr
    assert worker.poll() is None, "the guest's end took the worker with it"
    assert [one["id"] for one in live()] == [row["id"]], "the guest brought a worker of its own"
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert not psutil.pid_exists(row["pid"])
    assert not (tmp_path / "home" / "stack.json").exists()


def test_several_processes_are_kept_running(
    start: Start, live: Live, sandbox: Any, valkey: Any, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    worker = start("worker", "--processes", 2, "-c", write_config(sandbox.url, redis_url=valkey.url))
    first = wait_until(lambda: len(found := live()) == 2 and found, "two live workers")
    assert {psutil.Process(row["pid"]).ppid() for row in first} == {worker.pid}
    os.kill(first[0]["pid"], signal.SIGKILL)
    old = {row["pid"] for row in first}
    wait_until(lambda: any(row["pid"] not in old for row in live()), "another one in its place")
    assert re.search(r"worker process \d was killed by SIGKILL", (tmp_path / "process0.output").read_text())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert live() == []


def test_one_process_beside_a_redis_server_works_in_the_command_itself(
    start: Start, live: Live, sandbox: Any, valkey: Any, write_config: Callable[..., Path]
) -> None:
    worker = start("worker", "--provider", "openai", "-c", write_config(sandbox.url, redis_url=valkey.url))
    [row] = wait_until(live, "a live worker")
    assert row["pid"] == worker.pid
    assert row["providers"] == ["openai"]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert live() == []


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_9_of_the_command_ends_its_processes(
    processes: int,
    start: Start,
    live: Live,
    sandbox: Any,
    valkey: Any,
    write_config: Callable[..., Path],
    tmp_path: Path,
) -> None:
    more = {"redis_url": valkey.url} if processes == 2 else {}
    worker = start("worker", "--processes", processes, "-c", write_config(sandbox.url, **more))
    rows = wait_until(lambda: len(found := live()) == processes and found, "live workers")
    worker.kill()
    worker.wait()
    # a dead one that nobody has reaped yet still has its number; it runs no more
    wait_until(lambda: not any(started(row["pid"]) for row in rows), "all gone")


def test_a_second_signal_gives_up_calls_under_way(
    start: Start,
    cli: Cli,
    start_sandbox: Callable[..., Any],
    valkey: Any,
    write_config: Callable[..., Path],
    write_lines: Any,
    live: Live,
) -> None:
    sandbox = start_sandbox(latency=600)
    config = write_config(sandbox.url, redis_url=valkey.url)
    worker = start("worker", "--processes", 2, "-c", config)
    wait_until(lambda: len(live()) == 2, "live workers")
    cli("submit", write_lines([{"model": "gpt-4o", "prompt": "slow"}]), "-c", config)
    wait_until(sandbox.log, "a call under way")
    worker.send_signal(signal.SIGTERM)
    wait_until(
        lambda: "stopping" in (Path(str(config)).parent / "process0.output").read_text(), "the first signal heard"
    )
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(45) == 130, "its grace is a minute"
    costs = json.loads(cli("costs", "--json", "-c", config).stdout)
    assert sum(row["unknown_calls"] + row["open_calls"] for row in costs["totals"]) == 1


def test_an_unknown_provider_is_refused_with_the_nearest_name(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path]
) -> None:
    done = cli("worker", "--provider", "openia", "-c", write_config(sandbox.url))
    assert done.returncode == 2
    assert "did you mean openai" in done.stderr


def test_a_missing_key_is_refused_before_anything_starts(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    keys = {"claude": [{"id": "cl-1", "secret": "${NOBODY_SET_THIS}"}]}
    done = cli("worker", "-c", write_config(sandbox.url, keys=keys))
    assert done.returncode == 2
    assert "NOBODY_SET_THIS" in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sets another process's limits")
def test_a_worker_that_can_store_nothing_gives_up_within_half_a_minute(
    start: Start,
    cli: Cli,
    live: Live,
    start_sandbox: Callable[..., Any],
    valkey: Any,
    write_config: Callable[..., Path],
    write_lines: Any,
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.5)
    config = write_config(sandbox.url, redis_url=valkey.url, worker={"concurrency": 5})
    worker = start("worker", "-c", config)
    wait_until(live, "a live worker")
    prompts = write_lines([{"model": "gpt-4o", "prompt": str(n)} for n in range(100)])
    assert cli("submit", prompts, "-c", config).returncode == 0
    wait_until(lambda: sandbox.summary()["calls"] >= 10, "calls under way")
    _, most = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, most))  # every write fails, as on a full disk
    before = sandbox.summary()["calls"]
    worker.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert worker.wait(60) == 0
    assert time.monotonic() - began < 45, (
        "less than its grace of a minute, also where this machine stands still in between"
    )
    assert sandbox.summary()["calls"] <= before + 5
    told = json.loads(cli("status", "1", "--json", "-c", config).stdout)
    assert told["running"] > 0, "what could not be stored is still announced as under way"
