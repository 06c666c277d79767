"""All workers replaced under load, one after the other: no call is cut, none is made twice, and each ends with 0."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from models.config_file import load_config
from models.database import Database
from models.tables import attempts, jobs, workers
from submit.bell import ring
from submit.producer import submit_batch
from tests.making import attempt_rows, batch_status, job_rows
from tests.servers import SandboxProcess, Valkey, wait_for

DATABASES = ["sqlite"]

JOBS = 300
WORKERS = 3


@pytest.mark.timeout(180)
def test_a_rolling_restart_costs_no_call_shorter_than_the_grace(
    start: Callable[..., subprocess.Popen[str]],
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    valkey: Valkey,
    database: Database,
) -> None:
    sandbox = start_sandbox(latency=0.2)
    config = write_config(sandbox.url, providers=["openai"], redis_url=valkey.url, worker={"concurrency": 4})

    def begin() -> subprocess.Popen[str]:
        return start("worker", "-c", config, TRUCKLLM_DATABASE_URL=str(database.url))

    def number(process: subprocess.Popen[str]) -> int | None:
        with database.read() as connection:
            return connection.execute(sa.select(workers.c.id).where(workers.c.pid == process.pid)).scalar_one_or_none()

    def calling(worker_id: int | None) -> bool:
        """Whether calls of this worker are out."""
        with database.read() as connection:
            open_calls = sa.select(attempts.c.job_id).where(attempts.c.outcome == "unknown")
            mine = (jobs.c.worker_id == worker_id, jobs.c.status == "running", jobs.c.id.in_(open_calls))
            return connection.execute(sa.select(jobs.c.id).where(*mine)).first() is not None

    old = [begin() for _ in range(WORKERS)]
    wait_for(lambda: all(map(number, old)), "the workers to register", 90)
    batches, new, seen_calling = [], [], 0
    for worker in old:
        new.append(begin())
        wait_for(lambda: number(new[-1]), "the next one to register", 90)
        lines = [
            {"prompt": f"{worker.pid} {n}", "provider": "openai", "model": "gpt-a"} for n in range(JOBS // WORKERS)
        ]
        submitted = submit_batch(lines, config=load_config(config, secrets=True), database=database)
        batches.append(submitted.batch_id)
        ring(valkey.url, {"openai": 2 * len(old + new)})  # one ticket is for a hundred rows, and any worker's

        def out_or_over(worker_id: int | None = number(worker), batch: int = submitted.batch_id) -> str | None:
            if calling(worker_id):
                return "calls out"
            return "over" if batch_status(database, batch) == "completed" else None

        seen_calling += wait_for(out_or_over, "it to have calls out", 90) == "calls out"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        assert number(worker) is None
    assert seen_calling, "others may do all that is to be done before this machine lets us look, but not each time"
    for batch in batches:
        wait_for(lambda: batch_status(database, batch) == "completed", "the batch to be done", 90)  # noqa: B023

    rows = [row for batch in batches for row in job_rows(database, batch)]
    calls = [row for batch in batches for row in attempt_rows(database, batch)]
    assert Counter(row["status"] for row in rows) == {"succeeded": JOBS}
    assert {row["rescues"] for row in rows} == {0}
    assert Counter(row["outcome"] for row in calls) == {"succeeded": JOBS}
    assert len(sandbox.log()) == JOBS
