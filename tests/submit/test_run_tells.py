"""What `truckllm run` and `submit` say to people: before anything is paid, and while something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.submit.test_run import MODELS, Cli, Start, lines, wait_until

Config = Callable[..., Path]
Lines = Callable[..., Path]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


def batches(cli: Cli) -> list[dict[str, Any]]:
    return list(json.loads(cli("status", "--json").stdout)["batches"])


def test_looking_makes_no_state_folder(cli: Cli, tmp_path: Path) -> None:
    for command in (("status",), ("workers",), ("costs",), ("keys", "--json")):
        assert cli(*command).returncode in (0, 2)
    assert "no batches yet" in cli("status").stderr
    assert not (tmp_path / "home").exists()


def test_a_state_folder_that_cannot_be_is_told_with_the_way_out(cli: Cli, sandbox: Any, write_config: Config) -> None:
    done = cli("keys", "-c", write_config(sandbox.url), TRUCKLLM_HOME="/proc/nowhere")
    assert done.returncode in (0, 4)
    done = cli("run", "x.jsonl", "-c", write_config(sandbox.url), TRUCKLLM_HOME="/proc/nowhere")
    assert (done.returncode, "set TRUCKLLM_HOME" in done.stderr) == (4, True)


def test_a_place_that_results_cannot_go_to_is_refused_before_the_first_call(
    cli: Cli, sandbox: Any, write_config: Config, write_lines: Lines, tmp_path: Path
) -> None:
    done = cli("run", write_lines(lines(3)), "-c", write_config(sandbox.url), "-o", "nowhere/out.jsonl")
    assert (done.returncode, "there is no folder" in done.stderr) == (2, True)
    assert sandbox.summary()["calls"] == 0
    assert not (tmp_path / "home").exists()


def test_an_unknown_type_is_told_once_before_anything_is_enqueued(
    cli: Cli, sandbox: Any, write_config: Config, write_lines: Lines
) -> None:
    config = write_config(sandbox.url, settings={"openai": {"type": "opnai"}})
    routed = write_lines([{"provider": "openai", "model": "m", "prompt": "hello"}])
    done = cli("run", routed, "-c", config)
    assert done.returncode == 2
    assert "providers[0].type: no provider plugin claims the type 'opnai'; did you mean openai?" in done.stderr
    assert done.stderr.count("truckllm:") == 1
    assert batches(cli) == []
    warned = cli("submit", routed, "-c", config)
    assert (warned.returncode, "did you mean openai?" in warned.stderr) == (0, True)
    others = write_lines([{"model": MODELS[1], "prompt": "hello"}], "others.jsonl")
    assert cli("run", others, "-c", config).returncode == 0, "what nobody asks for hinders nobody"


def test_a_batch_whose_lane_left_the_configuration_is_not_resumed_without_a_word(
    cli: Cli, sandbox: Any, write_config: Config, write_lines: Lines
) -> None:
    prompts = write_lines([{"model": "a-model", "prompt": "hello"}])
    assert cli("submit", prompts, "-c", write_config(sandbox.url, providers=["claude"])).returncode == 0
    config = write_config(sandbox.url, providers=["openai"])
    again = cli("submit", prompts, "-c", config)
    assert (again.returncode, "lane claude is missing" in again.stderr) == (0, True)
    done = cli("run", prompts, "-c", config)
    assert done.returncode == 2
    assert "truckllm cancel 1" in done.stderr
    assert sandbox.summary()["calls"] == 0


def test_other_batches_that_are_worked_on_too_are_told(
    cli: Cli, sandbox: Any, write_config: Config, write_lines: Lines
) -> None:
    config = write_config(sandbox.url)
    assert cli("submit", write_lines(lines(5), "other.jsonl"), "-c", config).returncode == 0
    assert "no live worker serves" in cli("status", "1", "-c", config).stdout
    done = cli("run", write_lines(lines(3)), "-c", config)
    assert "another batch is queued here (5 jobs), and worked on too" in done.stderr
    assert cli("submit", write_lines(lines(4), "third.jsonl"), "-c", config).returncode == 0
    again = cli("run", write_lines(lines(3)), "-c", config)
    assert (again.returncode, "completed before" in again.stderr) == (0, True)
    assert "worked on too" not in again.stderr, "nothing is started for a batch that is done"


def test_a_provider_in_trouble_is_named_and_so_is_the_missing_route_once(
    start: Start, cli: Cli, sandbox: Any, write_config: Config, write_lines: Lines, tmp_path: Path
) -> None:
    config = write_config(sandbox.url)
    assert "no route" not in cli("run", write_lines(lines(3)), "-c", config).stderr
    sandbox.faults({"kind": "status", "status": 503, "provider": "openai"})
    process = start("run", write_lines([{"model": MODELS[0], "prompt": f"{n}"} for n in range(20)]), "-c", config)
    output = tmp_path / "process0.output"
    wait_until(lambda: output.read_text().count("openai: it answers HTTP 503") >= 2, "two lines with the trouble")
    assert "openai: it answers HTTP 503" in cli("status", "2", "-c", config).stdout
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert output.read_text().count("no route for openai") == 1


def test_a_cancelled_run_says_how_to_go_on(
    start: Start, cli: Cli, start_sandbox: Callable[..., Any], write_config: Config, write_lines: Lines, tmp_path: Path
) -> None:
    config = write_config(start_sandbox(latency=0.5).url, worker={"concurrency": 2})
    process = start("run", write_lines(lines(60)), "-c", config)
    output = tmp_path / "process0.output"
    wait_until(lambda: "in flight" in output.read_text(), "the batch at work")
    assert cli("cancel", 1).returncode == 0
    assert process.wait(60) == 1
    assert "truckllm rerun 1 --status cancelled" in output.read_text()


@pytest.mark.timeout(120)
def test_workers_that_hang_are_told_and_so_is_their_return(
    start: Start, cli: Cli, start_sandbox: Callable[..., Any], write_config: Config, write_lines: Lines, tmp_path: Path
) -> None:
    sandbox = start_sandbox(latency=0.3)
    config = write_config(sandbox.url, worker={"concurrency": 2})
    process = start("run", write_lines(lines(60)), "-c", config)
    output = tmp_path / "process0.output"
    wait_until(lambda: sandbox.summary()["calls"] >= 3, "calls under way")
    [row] = json.loads(cli("workers", "--json").stdout)["workers"]
    worker = psutil.Process(row["pid"])
    worker.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: "warning: no worker has reported for 2" in output.read_text(), "the warning", 60.0)
        assert f"see {tmp_path / 'home' / 'worker.log'} (last line: " in output.read_text()
    finally:
        worker.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0, output.read_text()
    assert "the database and the workers answer again" in output.read_text()


def test_submit_says_when_a_worker_is_at_it_already(
    start: Start, cli: Cli, sandbox: Any, write_config: Config, write_lines: Lines
) -> None:
    config = write_config(sandbox.url)
    worker: subprocess.Popen[str] = start("worker", "-c", config)
    wait_until(lambda: json.loads(cli("workers", "--json").stdout)["workers"], "a worker")
    done = cli("submit", write_lines(lines(3)), "-c", config)
    assert "a worker here works on it already" in done.stderr
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
