"""What runs suspects and hangs is ended before anybody takes it for dead, and its lone row is charged, or it would hang one process
after the other for ever, and each time cost a call."""

from __future__ import annotations

import asyncio
import sys

import pytest

from models import processes
from models.config import Config
from models.config_file import load_config_text
from models.database import Database
from models.store import workers as worker_store
from models.tables import jobs
from submit.producer import submit_batch
from tests.making import job_rows
from tests.worker.bench import until
from worker import warden
from worker.janitor import DEAD_SECONDS
from worker.lease import BEAT_SECONDS
from worker.recorder import Recorder
from worker.watchdog import TICK_SECONDS

DATABASES = ["sqlite"]

HANGS = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def config() -> Config:
    text = "providers: [{id: openai, type: openai, keys: [{id: k, secret: s}]}]"
    return load_config_text(text, secrets=True, environ={})


def test_a_process_of_suspects_that_hangs_is_gone_before_others_take_it_for_dead() -> None:
    # a beat may be one round old when it hangs, seen a round late and looked at a round late
    assert BEAT_SECONDS + warden.PATIENCE * TICK_SECONDS < warden.SILENT_SECONDS
    assert warden.SILENT_SECONDS + 2 * BEAT_SECONDS < DEAD_SECONDS


def test_one_that_shows_no_life_is_ended_and_its_lone_row_is_charged(
    config: Config, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warden, "OURS", HANGS)
    batch = submit_batch(
        [{"prompt": "hangs", "provider": "openai", "model": "gpt-a"}], config=config, database=database
    ).batch_id
    clock = 0.0

    async def scene() -> None:
        nonlocal clock
        recorder = Recorder(database, asyncio.get_running_loop())
        mine = warden.Warden(config, ["openai"], recorder, lambda: 1, clock=lambda: clock)
        mine.start()
        pid = mine.pid
        assert pid is not None
        with database.write() as connection:
            worker = worker_store.register(
                connection,
                host=processes.host(),
                boot_id=processes.boot_id(),
                pid=pid,
                pid_started=processes.started(pid) or 0.0,
                queues=["openai"],
                config_hash="",
                now=0.0,
                alone_for=1,
            )
            connection.execute(jobs.update().values(status="running", worker_id=worker, rescues=3, epoch=1))

        def look() -> None:
            nonlocal clock
            clock += BEAT_SECONDS
            with database.read() as connection:
                mine.mind(worker_store.everyone(connection))

        for _ in range(20):  # it beats
            with database.write() as connection:
                worker_store.beat(connection, worker, 0, 0.0)
            look()
        clock += 100.0  # its parent stood still itself
        for _ in range(int(warden.SILENT_SECONDS / BEAT_SECONDS) + 1):
            look()
            await asyncio.sleep(0.01)
            assert mine.pid == pid, "it is given time"
        look()
        await until(lambda: mine.ended)
        recorder.stop()

    asyncio.run(scene())
    (row,) = job_rows(database, batch)
    assert (row["status"], row["solo_crashes"], row["worker_id"]) == ("queued", 1, None)


def test_one_that_cant_be_started_holds_nothing_up(
    config: Config, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warden, "OURS", ("/no/such/program",))

    async def scene() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        mine = warden.Warden(config, ["openai"], recorder, lambda: 1)
        mine.start()
        assert mine.ended
        recorder.stop()

    asyncio.run(scene())
