"""`truckllm delete` and `prune`: what was asked and answered is gone from the disk, what was paid stays."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.database import Database, open_database
from models.tables import batches
from submit import loading
from tests.servers import SandboxProcess, wait_for
from tests.worker_by_hand import WorkerByHand

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
SECRET = "the patient in bed nine"


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


@pytest.fixture
def stored(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("TRUCKLLM_HOME", environment["TRUCKLLM_HOME"])
    database = open_database()
    yield database
    database.close()


@pytest.fixture(autouse=True)
def config(write_config: Callable[..., Path]) -> Path:
    return write_config("http://127.0.0.1:1", providers=["openai"])


def submitted(cli: Cli, write_lines: Callable[..., Path], name: str = "prompts.jsonl", number: int = 3) -> None:
    lines = [{"prompt": f"{SECRET} {name} {n} " + "x" * 5000, "model": "gpt-4o"} for n in range(number)]
    assert cli("submit", write_lines(lines, name)).returncode == 0


def answered(database: Database) -> None:
    worker = WorkerByHand(database)
    for job in worker.claim(64):
        worker.succeed(job, f"about {SECRET}")


def on_disk(tmp_path: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (tmp_path / "home").glob("truckllm.db*"))


def test_a_deleted_batch_leaves_no_prompt_on_the_disk_and_all_its_cost(
    cli: Cli, write_lines: Callable[..., Path], stored: Database, tmp_path: Path
) -> None:
    submitted(cli, write_lines)
    answered(stored)
    before = json.loads(cli("costs", "--batch", 1, "--json").stdout)
    assert SECRET.encode() in on_disk(tmp_path)
    stored.engine.dispose()
    run = cli("delete", 1)
    assert run.returncode == 0, run.stderr
    assert "3 jobs is deleted" in run.stderr
    assert "VACUUM" in run.stderr
    assert SECRET.encode() not in on_disk(tmp_path)
    assert json.loads(cli("costs", "--batch", 1, "--json").stdout) == before
    assert json.loads(cli("status", "--json").stdout) == {"batches": []}
    for command in ("status", "results", "delete"):
        assert "there is no batch 1" in cli(command, 1).stderr
    submitted(cli, write_lines)
    assert json.loads(cli("status", "--json").stdout)["batches"][0]["batch_id"] == 2  # numbers are never used again


def test_an_unfinished_batch_is_deleted_only_by_force(
    cli: Cli, write_lines: Callable[..., Path], stored: Database
) -> None:
    submitted(cli, write_lines)
    run = cli("delete", 1)
    assert run.returncode == 2
    assert "--force" in run.stderr
    assert cli("delete", 1, "--force").returncode == 0
    assert "no batch 1" in cli("status", 1).stderr


def test_force_awaits_calls_under_way_for_the_ledger(
    cli: Cli,
    start: Start,
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=5.0)
    write_config(sandbox.url, providers=["openai"])
    lines = write_lines([{"prompt": f"say {n}", "model": "gpt-4o"} for n in range(3)])
    running = start("run", lines)
    wait_for(lambda: len(sandbox.log()) == 3, "calls under way")
    run = cli("delete", 1, "--force")
    assert run.returncode == 0, run.stderr
    assert "3 calls under way" in run.stderr
    (total,) = json.loads(cli("costs", "--batch", 1, "--json").stdout)["totals"]
    assert (total["calls"], total["unknown_calls"], total["succeeded"]) == (3, 0, 3)
    assert running.wait(60) in (0, 1, 2)  # its batch was taken away from it
    assert "Traceback" not in (tmp_path / "process0.output").read_text()


def test_prune_takes_what_ended_long_ago(cli: Cli, write_lines: Callable[..., Path], stored: Database) -> None:
    for name in ("old.jsonl", "new.jsonl"):
        submitted(cli, write_lines, name)
        answered(stored)
    submitted(cli, write_lines, "open.jsonl")
    with stored.write() as connection:
        connection.execute(sa.update(batches).where(batches.c.id == 1).values(finished_at=1000.0))
    assert "would delete batch 1 (old.jsonl)" in cli("prune", "--older-than", "30d", "--dry-run").stderr
    run = cli("prune", "--older-than", "30d")
    assert run.returncode == 0
    assert "batch 1 (old.jsonl): 3 jobs deleted" in run.stderr
    assert [row["batch_id"] for row in json.loads(cli("status", "--json").stdout)["batches"]] == [3, 2]
    assert "0 batches ended" in cli("prune", "--older-than", "30d").stderr


@pytest.mark.parametrize("age", ["30", "a month", "-1d", "d"])
def test_an_age_needs_a_number_and_a_unit(cli: Cli, age: str) -> None:
    run = cli("prune", f"--older-than={age}")
    assert run.returncode == 2
    assert "12h, 30d or 8w" in run.stderr


def test_what_an_interrupted_submission_left_is_deleted_or_pruned_and_a_live_one_is_left_alone(
    cli: Cli, write_lines: Callable[..., Path], stored: Database
) -> None:
    for name in ("dead.jsonl", "old.jsonl", "live.jsonl"):
        submitted(cli, write_lines, name)
    living = loading._mark()
    dead = " ".join([living.split()[0], "1", "0.0", "x"])
    with stored.write() as connection:
        now = stored.now(connection)
        for number, loader, then in ((1, dead, now), (2, "elsewhere 1 2.0 x", now - 40 * 86_400), (3, living, now)):
            connection.execute(
                sa.update(batches)
                .where(batches.c.id == number)
                .values(status="loading", loader=loader, loaded_at=then, created_at=then)
            )
    run = cli("delete", 3)
    assert (run.returncode, "being loaded by a process that lives" in run.stderr) == (2, True)
    assert cli("delete", 1).returncode == 0
    assert "batch 2 (old.jsonl): 3 jobs deleted" in cli("prune", "--older-than", "30d").stderr
    assert [row["batch_id"] for row in json.loads(cli("status", "--json").stdout)["batches"]] == [3]
