"""What a worker says of itself through the database when that fails at the wrong moment: that it ends, and under which number it works."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from models import database as database_module
from models.database import Database
from models.store import workers as worker_store
from tests.making import make_batch
from tests.worker.bench import Bench, until
from tests.worker.scripted import chats
from worker import recorder as recorder_module

DATABASES = ["sqlite"]


def test_an_ending_that_could_not_be_told_is_told_with_the_next_heartbeat(
    start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCK_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.02)
    worker = start_worker()
    make_batch(database, chats(1))

    def draining() -> bool:
        with database.read() as connection:
            return worker_store.told_to_drain(connection, worker.lease.worker_id)

    async def story() -> None:
        other = sqlite3.connect(str(database.url.database), isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        await worker.lease.end()
        other.execute("ROLLBACK")
        other.close()
        assert not draining()
        await until(lambda: worker.recorder.ready)
        assert await worker.lease.beat()
        assert draining()

    worker.run(story())


def test_a_worker_that_was_taken_for_dead_sends_nothing_before_it_has_a_new_number(
    start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker()
    number = worker.lease.worker_id

    def fails(*_: object, **__: object) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    async def story() -> None:
        assert worker.lease.fresh
        await worker.recorder.call(lambda connection: worker_store.remove(connection, [number]))
        with monkeypatch.context() as patch:
            patch.setattr(worker_store, "register", fails)
            assert not await worker.lease.beat()
        assert not worker.lease.fresh
        assert await worker.lease.beat()
        assert worker.lease.fresh
        assert worker.lease.worker_id > number

    worker.run(story())
