"""Nothing that a worker waits for stops its heartbeat, and no clock on the wall says who lives."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

import psutil
import pytest

from models import processes
from models.database import Database
from models.request import ModelInfo
from models.store import keys as key_store
from models.store import workers as worker_store
from tests.worker.bench import Bench, bench, until
from tests.worker.scripted import Scripted, config, play
from worker import janitor as janitor_module
from worker import keys as keys_module

DATABASES = ["sqlite"]


@pytest.fixture
def worker(database: Database, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(janitor_module, "BEAT_SECONDS", 0.02)
    with bench(config({}, {}), database, valkey_url) as made:
        yield made


class Silent(Scripted):
    """A provider that never tells its models."""

    asked = 0

    async def list_models(self, api_key: str) -> list[ModelInfo]:
        self.asked += 1
        await asyncio.sleep(3600)
        return []


def beats(database: Database) -> int:
    with database.read() as connection:
        return int(worker_store.everyone(connection)[0]["beat"])


def quarantine(worker: Bench, database: Database) -> str:
    """Has a key refused, its next probe due now. The key's name."""
    key = worker.config.provider("p").keys[0]
    with database.write() as connection:
        key_store.quarantine(
            connection,
            provider="p",
            key_id=key.id,
            mark=key_store.fingerprint(key.secret.reveal()),
            pool=f"p/{key.id}",
            reason="refused: no",
            now=1.0,
            until=worker.recorder.now() - 1,
        )
    return f"p/{key.id}"


def test_a_provider_that_does_not_tell_its_models_stops_no_heartbeat(worker: Bench, database: Database) -> None:
    played = play(worker, kind=Silent)
    assert isinstance(played, Silent)
    quarantine(worker, database)

    async def story() -> None:
        rounds = asyncio.ensure_future(worker.janitor.run())
        await until(lambda: played.asked)
        before = beats(database)
        await until(lambda: beats(database) >= before + 10)
        assert played.asked == 1
        assert worker.lease.fresh
        rounds.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await rounds

    worker.run(story())


def test_a_provider_that_does_not_tell_its_models_is_given_up_and_the_key_stays_out(
    worker: Bench, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "ASK_SECONDS", 0.05)
    played = play(worker, kind=Silent)
    name = quarantine(worker, database)
    worker.run(worker.keys("p").refresh())
    assert isinstance(played, Silent)
    assert played.asked == 1
    assert [key.name for key in worker.keys("p").usable("m")] == [
        f"p/{key.id}" for key in worker.config.provider("p").keys if f"p/{key.id}" != name
    ]


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere the system has nothing better than the boot's wall-clock time")
def test_setting_the_clock_makes_nobody_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    boot, started = processes.boot_id(), processes.started(os.getpid())
    assert started is not None
    real = psutil.boot_time()
    # what the system tells of its boot moves with every step of the clock, and with it all that is reckoned from there
    monkeypatch.setattr(psutil, "boot_time", lambda: real + 3600)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: real + 3600)
    processes.boot_id.cache_clear()
    assert processes.alive(os.getpid(), started, boot)
