"""Steering with real processes: a pause is felt within two seconds, and resuming goes on where it stopped."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import SandboxProcess, wait_for

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]


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
    told = time.monotonic()
    assert running.wait(20) == 3
    before = len(sandbox.log())
    assert before < 150
    assert max(call["mono"] for call in sandbox.log()) - told < 2.0
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
