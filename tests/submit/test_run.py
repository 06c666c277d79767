"""`truckllm run` from end to end: real processes, a real Valkey, the sandbox in the place of the providers."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from submit.cli.run import interruptible

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]

MODELS = ("gpt-4o-mini", "gemini-3.5-flash", "claude-haiku-4-5")


def lines(number: int) -> list[dict[str, Any]]:
    return [{"id": f"job-{n}", "model": MODELS[n % 3], "prompt": f"Say {n}."} for n in range(number)]


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def wait_until(true: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.02)
    return value


def stack_of(tmp_path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((tmp_path / "home" / "stack.json").read_text()))
    except (OSError, ValueError):
        return None


def belonging_to(tmp_path: Path) -> list[str]:
    """Every process of this test's state folder, and of the server folder that it names."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline())
            ours = process.environ().get("TRUCKLLM_HOME") == str(tmp_path / "home")
        except psutil.Error:
            continue
        if ours or "truckllm-" in words and _folder(words) in _folders(tmp_path):
            found.append(words)
    return found


def _folder(words: str) -> str:
    return next((part for part in words.replace(":", " ").split() if "truckllm-" in part), "").removesuffix(
        "/valkey.sock"
    )


_seen_folders: dict[Path, set[str]] = {}


def _folders(tmp_path: Path) -> set[str]:
    record = stack_of(tmp_path)
    known = _seen_folders.setdefault(tmp_path, set())
    if record:
        known.add(record["folder"])
    return known


def test_every_line_is_answered_in_order_and_nothing_is_left_running(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    config, prompts = write_config(sandbox.url), write_lines(lines(60))
    done = cli("run", prompts, "-c", config)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "prompts.results.jsonl")
    assert [row["id"] for row in found] == [f"job-{n}" for n in range(60)]
    assert {row["status"] for row in found} == {"succeeded"}
    assert sandbox.summary()["calls"] == 60
    assert "60 of 60 jobs succeeded" in done.stdout
    assert belonging_to(tmp_path) == []
    assert stack_of(tmp_path) is None


def test_json_is_one_object_with_the_documented_fields(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    done = cli("run", write_lines(lines(6)), "-c", write_config(sandbox.url), "--json", "-o", "out.jsonl")
    told = json.loads(done.stdout)
    assert told["status"] == "completed"
    assert (told["total"], told["succeeded"], told["failed"]) == (6, 6, 0)
    assert told["results"] == {"path": "out.jsonl", "lines": 6, "succeeded": 6, "failed": 0, "cancelled": 0}
    assert (told["calls"], told["unknown_calls"], told["unpriced_calls"]) == (6, 0, 0)
    assert len(results(tmp_path / "out.jsonl")) == 6


def test_results_on_stdout_come_alone(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    done = cli("run", write_lines(lines(3)), "-c", write_config(sandbox.url), "-o", "-")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["job-0", "job-1", "job-2"]
    assert "3 of 3 jobs succeeded" in done.stderr


def test_failed_jobs_end_in_exit_code_1_and_in_the_results(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    sandbox.faults({"kind": "status", "status": 400, "contains": "Say 4."})
    done = cli("run", write_lines(lines(9)), "-c", write_config(sandbox.url))
    assert done.returncode == 1, done.stderr
    found = results(tmp_path / "prompts.results.jsonl")
    assert [row["id"] for row in found if row["status"] == "failed"] == ["job-4"]
    assert "1 failed" in done.stdout


def test_a_missing_key_is_found_before_anything_is_enqueued_or_started(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    keys = {"claude": [{"id": "cl-1", "secret": "${NOBODY_SET_THIS}"}]}
    done = cli("run", write_lines(lines(3)), "-c", write_config(sandbox.url, keys=keys))
    assert done.returncode == 2
    assert "NOBODY_SET_THIS" in done.stderr
    assert not (tmp_path / "home").exists()
    assert sandbox.summary()["calls"] == 0


def test_bad_lines_end_it_with_their_numbers_and_nothing_left_running(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"model": "gpt-4o", "prompt": "fine"}\n{"model": "gpt-4o"}\n')
    done = cli("run", "bad.jsonl", "-c", write_config(sandbox.url))
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert sandbox.summary()["calls"] == 0
    assert belonging_to(tmp_path) == []


def test_a_batch_without_a_usable_key_is_blocked_and_says_why(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path]
) -> None:
    sandbox.faults({"kind": "key_invalid", "provider": "claude"})
    done = cli("run", write_lines(lines(9)), "-c", write_config(sandbox.url))
    assert done.returncode == 3, done.stderr
    assert "blocked" in done.stdout
    assert "claude/claude-1" in done.stdout


def test_ctrl_c_finishes_calls_in_flight_and_the_next_run_goes_on(
    cli: Cli,
    start: Start,
    start_sandbox: Callable[..., Any],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.3)
    config, prompts = write_config(sandbox.url, worker={"concurrency": 5}), write_lines(lines(120))
    process = start("run", prompts, "-c", config)
    wait_until(lambda: sandbox.summary()["calls"] >= 20, "calls under way")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert belonging_to(tmp_path) == []
    assert 20 <= sandbox.summary()["calls"] < 120
    done = cli("run", prompts, "-c", config, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["succeeded"]) == (0, 120)
    assert "goes on" in done.stderr
    assert (sandbox.summary()["calls"], told["unknown_calls"]) == (120, 0), "a call was lost or made twice"


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGINT, "3 calls in flight are finished first"),
        (signal.SIGTERM, "interrupted: the next `truckllm run` of this file goes on"),  # before that
        (signal.SIGHUP, "3 calls in flight are finished first"),
    ],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_a_second_signal_gives_up_calls_in_flight(
    number: signal.Signals,
    told: str,
    start: Start,
    start_sandbox: Callable[..., Any],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=50)
    process = start("run", write_lines(lines(3)), "-c", write_config(sandbox.url))
    output = tmp_path / "process0.output"
    wait_until(lambda: "3 in flight" in output.read_text(), "calls in flight")
    process.send_signal(number)
    wait_until(lambda: told in output.read_text(), "the first signal heard")
    process.send_signal(number)
    assert process.wait(30) == 130
    assert belonging_to(tmp_path) == []


def test_kill_9_of_it_all_loses_nothing_and_leaves_nothing(
    cli: Cli,
    start: Start,
    start_sandbox: Callable[..., Any],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.3)
    config, prompts = write_config(sandbox.url, worker={"concurrency": 5}), write_lines(lines(120))
    process = start("run", prompts, "-c", config)
    wait_until(lambda: sandbox.summary()["calls"] >= 20, "calls under way")
    record = stack_of(tmp_path)
    assert record is not None
    _folders(tmp_path)
    process.kill()
    process.wait()
    wait_until(lambda: not belonging_to(tmp_path) and not Path(record["folder"]).exists(), "all gone")
    done = cli("run", prompts, "-c", config, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["succeeded"]) == (0, 120)
    extra = sandbox.summary()["calls"] - 120
    assert 0 <= extra <= 15, "more calls were repeated than were in flight"
    assert told["unknown_calls"] >= extra


def test_kill_9_of_valkey_is_healed_in_the_middle_of_a_run(
    start: Start,
    start_sandbox: Callable[..., Any],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.2)
    config, prompts = write_config(sandbox.url, worker={"concurrency": 5}), write_lines(lines(150))
    process = start("run", prompts, "-c", config)
    wait_until(lambda: sandbox.summary()["calls"] >= 20, "calls under way")
    record = stack_of(tmp_path)
    assert record is not None
    [server] = [p for p in psutil.process_iter(["name", "cmdline"]) if _is_server(p, record["folder"])]
    server.kill()
    assert process.wait(60) == 0, (tmp_path / "process0.output").read_text()
    assert sandbox.summary()["calls"] == 150
    assert "the local Valkey" in (tmp_path / "process0.output").read_text()


def _is_server(process: psutil.Process, folder: str) -> bool:
    return process.info["name"] == "valkey-server" and folder in " ".join(process.info["cmdline"] or [])


def test_two_runs_in_one_state_folder_share_one_stack(
    cli: Cli,
    start: Start,
    start_sandbox: Callable[..., Any],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.3)
    config = write_config(sandbox.url, worker={"concurrency": 5})
    first, second = write_lines(lines(90), "a.jsonl"), write_lines(lines(60), "b.jsonl")
    owner = start("run", first, "-c", config)
    folder = wait_until(lambda: stack_of(tmp_path), "the stack")["folder"]
    guest = start("run", second, "-c", config)
    wait_until(lambda: "60 jobs" in (tmp_path / "process1.output").read_text(), "the second batch")
    assert (stack_of(tmp_path) or {})["folder"] == folder
    assert owner.wait(60) == 0
    assert guest.wait(60) == 0, (tmp_path / "process1.output").read_text()
    assert sandbox.summary()["calls"] == 150
    assert belonging_to(tmp_path) == []


def test_with_a_redis_url_it_starts_nothing_and_says_when_nobody_serves(
    start: Start,
    sandbox: Any,
    valkey: Any,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    config = write_config(sandbox.url, redis_url=valkey.url)
    process = start("run", write_lines(lines(6)), "-c", config)
    output = tmp_path / "process0.output"
    wait_until(lambda: "no live worker serves gemini" in output.read_text(), "the sentence")
    assert not (tmp_path / "home" / "stack.lock").exists()
    worker = start("worker", "-c", config)
    assert process.wait(60) == 0, output.read_text()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def test_a_models_py_in_the_working_directory_does_not_take_the_place_of_ours(
    cli: Cli, sandbox: Any, write_config: Callable[..., Path], write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("models", "submit", "worker", "truckllm", "examples"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file was imported')\n")
    done = cli("run", write_lines(lines(3)), "-c", write_config(sandbox.url))
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(120)
def test_the_demo_needs_nothing_and_leaves_nothing_but_its_results(cli: Cli, tmp_path: Path) -> None:
    done = cli("demo", seconds=90.0)
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "demo.results.jsonl")
    assert len(found) == 300
    assert all(row.get("status") == "succeeded" or row["response"]["status_code"] == 200 for row in found)
    assert "300 of 300 jobs succeeded" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.results.jsonl"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if "truckllm-demo-" in " ".join(p.info["cmdline"] or [])]
