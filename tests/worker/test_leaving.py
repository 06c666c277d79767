"""A worker that is told to end while the database is away says so as soon as it can: others take over what it doesn't do any more."""

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
