"""A PostgreSQL that is gone or has become a standby delays results; it loses none, and nothing new is paid for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from models import database as database_module
from models.database import Database, upgrade
from models.errors import StorageError
from models.states import BatchStatus
from tests.making import announce, assert_counts_are_true, attempt_rows, batch_status, claim, ending, make_batch
from tests.worker.bench import until
from worker import recorder as recorder_module
from worker.recorder import Recorder


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(recorder_module, "FINALIZE_SECONDS", 30.0)


@contextmanager
def changed(url: str, away: str, back: str) -> Iterator[Callable[[str], None]]:
    """Alters the database from outside: `away` now, `back` at the end; all its connections are cut both times."""
    name = sa.make_url(url).database
    server = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg", database="postgres"), isolation_level="AUTOCOMMIT"
    )

    def alter(what: str) -> None:
        with server.connect() as connection:
            connection.execute(sa.text(f"ALTER DATABASE {name} {what}"))
            cut = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            connection.execute(cut, {"name": name})

    alter(away)
    try:
        yield alter
    finally:
        alter(back)
        server.dispose()


OUTAGES = {
    "it takes no connections": ("WITH ALLOW_CONNECTIONS false", "WITH ALLOW_CONNECTIONS true"),
    "it has become a standby": (
        "SET default_transaction_read_only = on",
        "RESET default_transaction_read_only",
    ),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_replies_that_come_in_an_outage_are_stored_after_it(postgres_url: str, outage: str) -> None:
    database = Database(postgres_url)
    upgrade(database)
    batch = make_batch(database, 5)
    calls = announce(database, *claim(database))

    async def story() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        with changed(postgres_url, *OUTAGES[outage]):
            stored = [recorder.record(ending(call)) for call in calls]
            await until(lambda: not recorder.ready)
            with pytest.raises(StorageError):
                await recorder.call(lambda connection: connection.execute(sa.text("DELETE FROM workers")))
            assert not any(one.done() for one in stored)
            assert not recorder.ready
        await asyncio.gather(*stored)
        await until(lambda: recorder.ready)
        assert await asyncio.to_thread(recorder.stop, 30.0)

    asyncio.run(asyncio.wait_for(story(), 60))
    assert assert_counts_are_true(database, batch).succeeded == 5
    assert {row["outcome"] for row in attempt_rows(database, batch)} == {"succeeded"}
    assert batch_status(database, batch) == BatchStatus.COMPLETED
    database.close()


def test_a_worker_that_is_stopped_in_the_middle_of_a_write_keeps_no_other_from_writing(postgres_url: str) -> None:
    database = Database(postgres_url)
    upgrade(database)
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))
    short = database_module._HURRY.text.replace("'15s'", "'300ms'")
    stopped = Database(postgres_url)

    async def story() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        with stopped.engine.connect() as connection:
            transaction = connection.begin()
            connection.execute(sa.text("UPDATE jobs SET model = model"))
            connection.execute(sa.text(short))  # and then nothing more
            await recorder.record(ending(call))
            with pytest.raises(sa.exc.SQLAlchemyError):
                connection.execute(sa.text("SELECT 1"))
            transaction.close()
        assert await asyncio.to_thread(recorder.stop, 30.0)

    asyncio.run(asyncio.wait_for(story(), 60))
    assert assert_counts_are_true(database, batch).succeeded == 1
    stopped.close()
    database.close()


def test_a_write_that_another_keeps_waiting_is_tried_again_and_not_taken_for_a_bad_reply(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_HURRY", sa.text(database_module._HURRY.text.replace("'10s'", "'50ms'")))
    database = Database(postgres_url)
    upgrade(database)
    batch = make_batch(database, 1)
    (call,) = announce(database, *claim(database))

    async def story() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        with database.engine.connect() as connection, connection.begin():
            connection.execute(sa.text("UPDATE jobs SET model = model"))
            stored = recorder.record(ending(call))
            await until(lambda: not recorder.ready)
            assert not stored.done()
        await stored
        assert await asyncio.to_thread(recorder.stop, 30.0)

    asyncio.run(asyncio.wait_for(story(), 60))
    assert assert_counts_are_true(database, batch).succeeded == 1
    assert {row["outcome"] for row in attempt_rows(database, batch)} == {"succeeded"}
    database.close()
