"""`truckllm rerun`: which jobs it takes, where they may go, and that they really are answered elsewhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.database import Database, open_database
from models.states import BatchStatus
from models.store import reruns
from models.tables import batches
from tests.making import batch_status, job_rows
from tests.servers import SandboxProcess
from tests.worker_by_hand import WorkerByHand

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


@pytest.fixture
def stored(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRUCKLLM_HOME", environment["TRUCKLLM_HOME"])
    database = open_database()
    yield database
    database.close()


@pytest.fixture
def config(write_config: Callable[..., Path]) -> Path:
    route = {"candidates": ["claude/claude-haiku-4-5", "gemini/gemini-3.5-flash"]}
    return write_config("http://127.0.0.1:1", routes={"smart": route})


def submitted(cli: Cli, config: Path, write_lines: Callable[..., Path], number: int = 4) -> Path:
    prompts = write_lines([{"id": f"p{n}", "prompt": f"say {n}", "model": "gpt-4o"} for n in range(number)])
    assert cli("submit", prompts, "-c", config).returncode == 0
    return prompts


def places(database: Database) -> list[tuple[str, str, str]]:
    return [(row["status"], row["lane"], row["model"]) for row in job_rows(database, 1)]


def test_only_jobs_with_the_error_are_rerun(cli: Cli, config: Path, write_lines: Any, stored: Database) -> None:
    submitted(cli, config, write_lines, 3)
    worker = WorkerByHand(stored)
    for job, code in zip(worker.claim(3), ["http_503", "bad_request", "http_503"], strict=True):
        worker.fail(job, code)
    assert "no failed jobs of that kind" in cli("rerun", 1, "--error", "http_500", "-c", config).stderr
    assert "no failed jobs of that kind" in cli("rerun", 1, "--from", "claude", "-c", config).stderr
    run = cli("rerun", 1, "--error", "http_503", "--from", "openai", "-c", config)
    assert "2 failed jobs are queued again" in run.stderr
    assert [status for status, _, _ in places(stored)] == ["queued", "failed", "queued"]


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("--provider", "claude", "--model", "claude-haiku-4-5"), ("claude", "claude-haiku-4-5")),
        (("--provider", "gemini"), ("gemini", "gpt-4o")),
        (("--provider", "openai", "--model", "openai/gpt-4o-mini"), ("openai", "gpt-4o-mini")),
        (("--provider", "claude", "--model", "openai/gpt-4o"), ("claude", "openai/gpt-4o")),
        (("--model", "gemini-3.5-flash"), ("gemini", "gemini-3.5-flash")),
        (("--model", "claude/opus"), ("claude", "opus")),
        (("--route", "smart"), ("smart", "")),
    ],
)
def test_failed_jobs_go_elsewhere_and_good_ones_stay(
    cli: Cli, config: Path, write_lines: Any, stored: Database, options: tuple[str, ...], place: tuple[str, str]
) -> None:
    submitted(cli, config, write_lines, 2)
    worker = WorkerByHand(stored)
    good, bad = worker.claim(2)
    worker.succeed(good)
    worker.fail(bad)
    run = cli("rerun", 1, *options, "-c", config)
    assert run.returncode == 0, run.stderr
    assert f"for {place[0]}" in run.stderr
    assert places(stored) == [("succeeded", "openai", "gpt-4o"), ("queued", *place)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--provider", "clade"), "no provider"),
        (("--route", "dull"), "no route"),
        (("--route", "smart", "--model", "x"), "keep one of them"),
        (("--provider", "claude", "--route", "smart"), "keep one of them"),
        (("--model", "mystery"), "no provider for model"),
    ],
)
def test_a_place_that_a_job_cannot_go_to_changes_nothing(
    cli: Cli, config: Path, write_lines: Any, stored: Database, options: tuple[str, ...], reason: str
) -> None:
    submitted(cli, config, write_lines, 1)
    worker = WorkerByHand(stored)
    worker.fail(worker.claim()[0])
    run = cli("rerun", 1, *options, "-c", config)
    assert run.returncode == 2
    assert reason in run.stderr
    assert places(stored) == [("failed", "openai", "gpt-4o")]


def test_a_cancelled_batch_runs_again_with_what_was_cancelled(
    cli: Cli, config: Path, write_lines: Any, stored: Database
) -> None:
    submitted(cli, config, write_lines, 3)
    worker = WorkerByHand(stored)
    worker.succeed(worker.claim()[0])
    cli("cancel", 1, "-c", config)
    assert batch_status(stored, 1) == BatchStatus.CANCELLED
    assert "--status cancelled` takes the 2" in cli("rerun", 1, "-c", config).stderr
    assert "2 cancelled jobs are queued again" in cli("rerun", 1, "--status", "cancelled", "-c", config).stderr
    assert batch_status(stored, 1) == BatchStatus.RUNNING
    for job in worker.claim(2):
        worker.succeed(job)
    assert batch_status(stored, 1) == BatchStatus.COMPLETED


def test_while_calls_of_a_cancelled_batch_are_under_way_it_is_not_rerun(
    cli: Cli, config: Path, write_lines: Any, stored: Database
) -> None:
    submitted(cli, config, write_lines, 2)
    WorkerByHand(stored).claim(1)
    cli("cancel", 1, "-c", config)
    run = cli("rerun", 1, "--status", "cancelled", "-c", config)
    assert run.returncode == 2
    assert "still under way" in run.stderr


def test_what_failed_at_one_provider_is_answered_by_another(
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    config = write_config(sandbox.url)
    sandbox.faults({"kind": "status", "status": 400, "provider": "openai"})
    prompts = write_lines(
        [{"id": f"p{n}", "prompt": f"say {n}", "model": m} for n, m in enumerate(["gpt-4o", "claude-haiku-4-5"])]
    )
    first = cli("run", prompts, "-c", config)
    assert first.returncode == 1, first.stderr
    calls = len(sandbox.log())
    assert cli("rerun", 1, "--provider", "gemini", "--model", "gemini-3.5-flash", "-c", config).returncode == 0
    second = cli("run", prompts, "-c", config)
    assert second.returncode == 0, second.stderr
    rows = [json.loads(line) for line in (tmp_path / "prompts.results.jsonl").read_text().splitlines()]
    assert [(row["status"], row["provider"]) for row in rows] == [("succeeded", "gemini"), ("succeeded", "claude")]
    assert len(sandbox.log()) == calls + 1


def test_what_only_one_vendor_does_is_not_sent_to_another(
    cli: Cli, config: Path, write_lines: Any, stored: Database
) -> None:
    body = {"model": "text-embedding-3-small", "input": "a text"}
    lines = [{"custom_id": "v", "method": "POST", "url": "/v1/embeddings", "body": body}]
    assert cli("submit", write_lines(lines), "-c", config).returncode == 0
    worker = WorkerByHand(stored)
    worker.fail(worker.claim(1)[0])
    refused = cli("rerun", 1, "--provider", "claude", "-c", config)
    assert refused.returncode == 2
    assert "embeddings" in refused.stderr
    assert [status for status, _, _ in places(stored)] == ["failed"]


def test_who_finds_another_batch_in_the_way_half_way_says_what_is_queued_already(
    cli: Cli, config: Path, write_lines: Any, stored: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(cli, config, write_lines, 3)
    worker = WorkerByHand(stored)
    for job in worker.claim(3):
        worker.fail(job, "http_503")
    queue, chunks = reruns.rerun, []

    def one_by_one(connection: Connection, *given: Any, **more: Any) -> reruns.Requeued:
        chunks.append(1)
        if len(chunks) == 2:  # what was queued again has ended, and somebody has submitted the file anew
            connection.execute(batches.update().values(status=BatchStatus.COMPLETED))
            cut = connection.execute(sa.select(batches)).mappings().one()
            connection.execute(batches.insert().values({**cut, "id": 2, "status": BatchStatus.QUEUED}))
        return queue(connection, *given, **{**more, "most": 1})

    monkeypatch.setattr(reruns, "rerun", one_by_one)
    done = cli("rerun", 1, "-c", config)
    assert (done.returncode, "1 job of it had been queued again before" in done.stderr) == (2, True)
    assert "Nothing was changed" not in done.stderr
    assert [status for status, _, _ in places(stored)] == ["queued", "failed", "failed"]
