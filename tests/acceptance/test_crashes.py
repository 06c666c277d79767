"""`kill -9` of a worker, of Valkey and of the whole `run`, in the middle of a batch: nothing lost, nothing paid twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.database import Database
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.servers import SandboxProcess, wait_for

MODELS = {"openai": "gpt-a", "gemini": "gemini-a", "claude": "claude-a"}
JOBS = 3000


def lines() -> list[dict[str, Any]]:
    providers = list(MODELS)
    return [
        {"id": f"row-{n}", "provider": providers[n % 3], "model": MODELS[providers[n % 3]], "prompt": f"Question {n}?"}
        for n in range(JOBS)
    ]


class State:
    """What the state folder's database says."""

    def __init__(self, home: Path) -> None:
        self.path = home / "truckllm.db"

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        database = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # no tables yet
        finally:
            database.close()

    def done(self) -> int:
        rows = self.ask("SELECT sum(succeeded) FROM batch_counts")
        return int(rows[0][0] or 0) if rows else 0


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def named(processes: list[psutil.Process], word: str) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            if any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.mark.timeout(180)
def test_killing_worker_valkey_and_run_in_turn_loses_nothing_and_pays_only_what_was_in_flight_twice(
    start: Callable[..., Any],
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    sandbox = start_sandbox(latency=0.15)
    config = write_config(sandbox.url, worker={"concurrency": 40})
    prompts = write_lines(lines())
    state = State(Path(environment["TRUCKLLM_HOME"]))
    run = start("run", prompts, "-c", config)

    wait_for(lambda: state.done() > 400, "the first jobs")
    (worker,) = state.ask("SELECT pid FROM workers")
    os.kill(worker[0], signal.SIGKILL)
    before = state.done()
    wait_for(lambda: state.done() > before + 400, "work to go on after the worker was killed")

    for valkey in named(descendants(run.pid), "valkey-server"):
        valkey.kill()
    before = state.done()
    wait_for(lambda: state.done() > before + 400, "work to go on after Valkey was killed")

    family = descendants(run.pid)
    run.kill()
    run.wait()
    wait_for(lambda: not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], "all to end")
    assert state.done() < JOBS, "the test was too slow to kill anything"

    again = start("run", prompts, "-c", config)
    assert again.wait(90) == 0, (tmp_path / "process1.output").read_text()

    told = (state.path.parent / "worker.log").read_text()
    assert "Connection to broker lost" in told
    assert "DeprecationWarning" not in told, "what Celery may do one day helps nobody"

    results = [json.loads(line) for line in (tmp_path / "prompts.results.jsonl").read_text().splitlines()]
    assert [result["id"] for result in results] == [line["id"] for line in lines()]
    assert {result["status"] for result in results} == {"succeeded"}
    assert state.ask("SELECT count(*) FROM results") == [(JOBS,)]

    log = sandbox.log()
    calls_by_prompt = Counter(row["prompt_sha"] for row in log)
    assert len(calls_by_prompt) == JOBS
    extra = len(log) - JOBS
    outcomes = dict(state.ask("SELECT outcome, count(*) FROM attempts GROUP BY 1"))
    assert outcomes["succeeded"] == JOBS
    assert set(outcomes) <= {"succeeded", "unknown", "fenced"}
    # an attempt may have been announced and killed before it was sent, so there can be more rows than calls, never fewer
    assert extra <= outcomes.get("unknown", 0) + outcomes.get("fenced", 0)
    assert extra <= 3 * 2 * 40, "at most what three providers had in flight at the two kills"
    assert outcomes.get("unknown", 0) > 0, "calls were in flight when the workers were killed"

    database = Database(f"sqlite:///{state.path}")
    assert_ledger_is_the_log(database, sandbox, cut=outcomes["unknown"])
    database.close()
