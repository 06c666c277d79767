"""Suspects run in a process of their own: what kills it again and again fails alone, and its parent's end counts for nothing.

Real processes; that jobs are suspects already spares the test the first deaths, which tests/chaos goes through.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from models.config_file import load_config
from models.database import Database
from models.processes import Child
from models.store import jobs as job_store
from models.store import workers as worker_store
from models.tables import jobs, workers
from submit.producer import submit_batch
from tests.making import assert_counts_are_true, attempt_rows, batch_status, job_rows, make_batch
from tests.servers import SandboxProcess, Valkey, wait_for
from tests.worker.bench import Bench
from tests.worker.scripted import chats, config
from worker.demise import OUT_OF_MEMORY
from worker.warden import Warden

DATABASES = ["sqlite"]

KILLER = """
import os, signal
from worker.providers.openai import OpenAI

class Killer(OpenAI):
    def read(self, request, reply):
        if "poison" in str(request.input):
            os.kill(os.getpid(), signal.SIGKILL)
        if "greedy" in str(request.input):
            raise MemoryError
        return super().read(request, reply)
"""

Start = Callable[..., "subprocess.Popen[str]"]


class Ward:
    """Batches, and worker processes that know a provider whose plugin kills them for the word poison, and wants more memory than there is
    for the word greedy."""

    def __init__(self, folder: Path, start: Start, config: Path, database: Database, sandbox: SandboxProcess) -> None:
        self.folder, self.config, self.database, self.sandbox = folder, config, database, sandbox
        self._start = start
        plugin = folder / "plugin"
        info = plugin / "killer-1.0.dist-info"
        info.mkdir(parents=True)
        (plugin / "killer.py").write_text(KILLER)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: killer\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[truckllm.providers]\nkiller = killer:Killer\n")
        self.path = os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")]))

    def submit(self, prompts: list[str], rescues: Callable[[int], int]) -> int:
        lines = [{"prompt": prompt, "provider": "openai", "model": "gpt-a"} for prompt in prompts]
        batch = submit_batch(lines, config=load_config(self.config, secrets=True), database=self.database).batch_id
        with self.database.write() as connection:
            for position in range(len(prompts)):
                connection.execute(
                    jobs.update()
                    .where(jobs.c.batch_id == batch, jobs.c.position == position)
                    .values(rescues=rescues(position))
                )
        return batch

    def worker(self) -> subprocess.Popen[str]:
        url = self.database.url.render_as_string(hide_password=False)
        return self._start("worker", "-c", self.config, PYTHONPATH=self.path, TRUCKLLM_DATABASE_URL=url)

    def apart(self) -> int | None:
        """The process that runs suspects at this moment."""
        with self.database.read() as connection:
            query = sa.select(workers.c.pid).where(workers.c.alone_for.is_not(None)).order_by(workers.c.id.desc())
            return next((pid for pid in connection.execute(query).scalars() if psutil.pid_exists(pid)), None)

    def calling(self, batch: int) -> bool:
        """Whether a call is out."""
        with self.database.read() as connection:
            return job_store.in_flight(connection, batch) > 0

    def finished(self, batch: int) -> bool:
        return batch_status(self.database, batch) == "completed"


@pytest.fixture
def ward(
    tmp_path: Path,
    start: Start,
    write_config: Callable[..., Path],
    start_sandbox: Callable[..., SandboxProcess],
    valkey: Valkey,
    database: Database,
) -> Ward:
    sandbox = start_sandbox(latency=0.3)
    settings = {"openai": {"type": "killer"}}
    config = write_config(sandbox.url, providers=["openai"], settings=settings, redis_url=valkey.url)
    return Ward(tmp_path, start, config, database, sandbox)


@pytest.mark.timeout(120)
def test_rows_that_end_their_process_fail_alone_and_the_suspects_and_all_others_succeed(ward: Ward) -> None:
    prompts = [f"question {n}" for n in range(60)]
    prompts[7], prompts[9] = "poison", "greedy"
    batch = ward.submit(prompts, lambda n: 3 if n in (7, 8, 9) else 2 if n < 40 else 0)
    worker = ward.worker()
    wait_for(lambda: ward.finished(batch), "the batch to end", 90)
    worker.terminate()
    assert worker.wait(60) == 0
    rows = job_rows(ward.database, batch)
    assert [row["position"] for row in rows if row["status"] != "succeeded"] == [7, 9]
    assert [rows[n]["error_code"] for n in (7, 9)] == ["poison", "poison"]
    assert "was killed by SIGKILL" in rows[7]["error_message"]
    assert f"ended with exit code {OUT_OF_MEMORY}" in rows[9]["error_message"]
    assert_counts_are_true(ward.database, batch)
    calls = Counter(row["job_id"] for row in attempt_rows(ward.database, batch))
    assert [calls.pop(rows[n]["id"]) for n in (7, 9)] == [2, 2]
    assert set(calls.values()) == {1}, "nobody else was under way when it died"


@pytest.mark.timeout(120)
def test_a_process_of_suspects_ends_with_its_parent_and_that_counts_against_no_job(ward: Ward) -> None:
    batch = ward.submit([f"question {n}" for n in range(12)], lambda _: 3)
    ward.sandbox.faults({"kind": "slow", "delay": 300})  # so that a call is out at the kill, whenever that comes
    worker = ward.worker()
    child = wait_for(lambda: ward.calling(batch) and ward.apart(), "a suspect's call")
    worker.kill()
    worker.wait()
    wait_for(lambda: not psutil.pid_exists(child), "the process of suspects to end with its parent")

    ward.sandbox.faults()
    worker = ward.worker()
    wait_for(lambda: not ward.calling(batch), "the killed call's job to be given back")
    child = wait_for(lambda: ward.calling(batch) and ward.apart(), "another suspect's call")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert not psutil.pid_exists(child)
    rows = job_rows(ward.database, batch)
    assert {row["solo_crashes"] for row in rows} == {0}
    assert sum(row["rescues"] - 3 for row in rows) == 1, "what was under way at the kill, and nothing that SIGTERM cut"
    assert {row["status"] for row in rows} <= {"queued", "succeeded"}
    assert Counter(row["outcome"] for row in attempt_rows(ward.database, batch))["unknown"] == 1


@pytest.mark.parametrize("told", ["by SIGTERM", "by a person"])
def test_a_worker_told_to_end_leaves_suspects_to_the_next_at_once(
    start_worker: Callable[..., Bench], database: Database, told: str
) -> None:
    """It may have its grace to live, and runs none meanwhile."""
    settings = config()
    old, new = start_worker(settings), start_worker(settings)
    make_batch(database, chats(1))
    with database.write() as connection:
        connection.execute(jobs.update().values(rescues=2))

    def turn() -> list[bool]:
        with database.read() as connection:
            rows = worker_store.everyone(connection)
            wardens = [Warden(settings, ["p"], one.recorder, lambda one=one: one.lease.worker_id) for one in (old, new)]
            return [warden.wanted(connection, rows) for warden in wardens]

    assert turn() == [True, False]
    if told == "by SIGTERM":
        old.stop()
    else:
        with database.write() as connection:
            worker_store.drain(connection, old.lease.worker_id)
    wait_for(lambda: turn() == [False, True], "the younger one's turn")


def test_a_worker_that_is_taken_for_dead_while_it_ends_still_leaves_suspects_to_others(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    worker.stop()
    worker.run(worker.recorder.call(lambda connection: worker_store.remove(connection, [worker.lease.worker_id])))
    worker.run(worker.lease.beat())
    with database.read() as connection:
        assert [row["draining"] for row in worker_store.everyone(connection)] == [1]


COUNTING = """
import signal, sys
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(print("told", flush=True)))
print("ready", flush=True)
sys.stdin.read()
sys.exit(len(told))
"""


def test_the_process_of_suspects_is_told_to_end_once_since_the_second_time_it_would_give_up_its_calls(
    start_worker: Callable[..., Bench], tmp_path: Path
) -> None:
    worker = start_worker(config())
    warden = worker._process._warden
    assert warden is not None
    log = tmp_path / "log"
    child = warden._child = Child("the process of suspects", [sys.executable, "-c", COUNTING], log=log)
    child.start()
    wait_for(lambda: "ready" in log.read_text(), "the process to start")
    worker.stop()
    wait_for(lambda: "told" in log.read_text(), "the signal")
    worker.stop()  # the end of a process does that again, behind the signal's own handler
    worker.run(worker.recorder.call(lambda _: None))
    child.release(time.monotonic() + 60)
    assert child.process is not None
    assert child.process.returncode == 1
