"""One database thread: what queued up is committed together, nothing that ended is lost, one bad row harms nobody else."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models import database as database_module
from models.database import Database
from models.errors import StorageError
from models.request import Usage
from models.states import BatchStatus, JobStatus, Outcome
from models.store.attempts import Announcement
from models.store.endings import Ending
from models.tables import batch_counts, results
from tests.making import (
    announce,
    assert_counts_are_true,
    attempt_rows,
    batch_status,
    claim,
    ending,
    finish,
    job_rows,
    make_batch,
    statuses,
)
from worker import recorder as recorder_module
from worker.recorder import MOST_BACKLOG_BYTES, Recorder


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(recorder_module, "FINALIZE_SECONDS", 30.0)


def impatient(path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """An SQLite database that waits for nobody who locks it. Only for tests of that: a machine that stands still locks, too."""
    monkeypatch.setattr(database_module, "LOCK_WAIT_SECONDS", 0.1)
    database = Database(f"sqlite:///{path}")
    database_module.upgrade(database)
    return database


def running(database: Database, number: int) -> tuple[int, list[Announcement]]:
    """A batch with so many calls under way."""
    batch = make_batch(database, number)
    return batch, announce(database, *claim(database, most=number))


def using(database: Database, work: Callable[[Recorder], Awaitable[None]]) -> None:
    """Runs a test with a recorder, and ends it as a worker does."""

    async def run() -> None:
        recorder = Recorder(database, asyncio.get_running_loop(), shard=3)
        try:
            await work(recorder)
        finally:
            assert await asyncio.to_thread(recorder.stop, 30.0)

    asyncio.run(asyncio.wait_for(run(), 60))


class Busy:
    """Keeps the recorder's thread inside a transaction until `go` is set."""

    def __init__(self, recorder: Recorder) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.done = asyncio.ensure_future(recorder.call(self._hold))

    def _hold(self, _: Connection) -> None:
        self.entered.set()
        assert self.go.wait(30)

    async def begin(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


@contextmanager
def counted_commits(database: Database) -> Iterator[list[int]]:
    count = [0]

    def counting(_: Connection) -> None:
        count[0] += 1

    sa.event.listen(database.engine, "commit", counting)
    try:
        yield count
    finally:
        sa.event.remove(database.engine, "commit", counting)


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


def square(number: int, _: Connection) -> int:
    return number * number


# Grouping


def test_what_queued_up_while_the_disk_was_busy_is_committed_together(database: Database) -> None:
    batch, calls = running(database, 100)

    async def work(recorder: Recorder) -> None:
        busy = Busy(recorder)
        await busy.begin()
        with counted_commits(database) as commits:
            stored = [recorder.record(ending(call)) for call in calls[:99]]
            asked = [asyncio.ensure_future(recorder.call(partial(square, n))) for n in range(20)]
            await asyncio.sleep(0)
            busy.go.set()
            await asyncio.gather(busy.done, *stored)
            assert await asyncio.gather(*asked) == [n * n for n in range(20)]
        # the held transaction, the group, and a look whether the batch is done
        assert commits[0] <= 4

    using(database, work)
    assert assert_counts_are_true(database, batch).succeeded == 99
    assert batch_status(database, batch) == BatchStatus.RUNNING


def test_a_batch_is_known_to_be_done_though_others_endings_never_cease(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "LOOK_SECONDS", 0.02)
    small, (last,) = running(database, 1)
    _, others = running(database, 100)

    async def work(recorder: Recorder) -> None:
        busy = Busy(recorder)
        await busy.begin()
        recorder.record(ending(last))
        for call in others:
            following = Busy(recorder)
            await asyncio.sleep(0)
            busy.go.set()
            await following.begin()
            busy = following
            recorder.record(ending(call))  # so that something waits whenever something was stored
            if batch_status(database, small) != BatchStatus.RUNNING:
                break
        else:
            pytest.fail("nobody has looked")
        busy.go.set()

    using(database, work)


def test_the_last_ending_completes_its_batch(database: Database) -> None:
    batch, calls = running(database, 3)

    async def work(recorder: Recorder) -> None:
        await asyncio.gather(*(recorder.record(ending(call)) for call in calls))
        await until(lambda: batch_status(database, batch) == BatchStatus.COMPLETED)

    using(database, work)


def test_stopping_stores_what_still_waits_and_refuses_what_comes_later(database: Database) -> None:
    batch, calls = running(database, 30)

    async def run() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        for call in calls:
            recorder.record(ending(call))
        assert await asyncio.to_thread(recorder.stop, 30.0)
        with pytest.raises(StorageError, match="stopped"):
            await recorder.call(lambda _: None)

    asyncio.run(run())
    assert assert_counts_are_true(database, batch).left == 0


# What can't be stored


def test_a_result_that_the_database_refuses_fails_alone(database: Database) -> None:
    batch, calls = running(database, 33)
    endings = [ending(call) for call in calls]
    assert endings[20].answer is not None
    endings[20] = replace(endings[20], answer=replace(endings[20].answer, finish_reason="\ud800 is no text"))

    async def work(recorder: Recorder) -> None:
        busy = Busy(recorder)
        await busy.begin()
        stored = [recorder.record(one) for one in endings]
        busy.go.set()
        await asyncio.gather(busy.done, *stored)
        assert recorder.ready

    using(database, work)
    states = statuses(database, batch)
    assert [n for n, status in enumerate(states) if status != "succeeded"] == [20]
    row = job_rows(database, batch)[20]
    assert (row["status"], row["error_code"]) == ("failed", "unstorable")
    paid = next(one for one in attempt_rows(database, batch) if one["job_id"] == row["id"])
    assert (paid["outcome"], paid["input_tokens"], paid["cost_nanos"]) == (Outcome.SUCCEEDED, 11, 1000)
    assert batch_status(database, batch) == BatchStatus.COMPLETED
    assert_counts_are_true(database, batch)


def test_an_ending_of_which_hardly_anything_can_be_stored_still_ends_its_job(database: Database) -> None:
    batch, (call, other) = running(database, 2)
    absurd = ending(call, usage=Usage(2**70, 1), cost_nanos=2**80)

    async def work(recorder: Recorder) -> None:
        await asyncio.gather(recorder.record(absurd), recorder.record(ending(other)))

    using(database, work)
    assert statuses(database, batch) == ["failed", "succeeded"]
    assert job_rows(database, batch)[0]["error_code"] == "unstorable"
    assert_counts_are_true(database, batch)


def test_an_operation_that_fails_takes_neither_endings_nor_other_operations_with_it(database: Database) -> None:
    batch, calls = running(database, 5)

    def impossible(connection: Connection) -> None:
        connection.execute(batch_counts.insert().values(batch_id=10**9, shard=0))

    def mistaken(_: Connection) -> None:
        raise ZeroDivisionError

    async def work(recorder: Recorder) -> None:
        busy = Busy(recorder)
        await busy.begin()
        stored = [recorder.record(ending(call)) for call in calls]
        asked: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(recorder.call(one)) for one in (lambda _: 1, impossible, lambda _: 2, mistaken)
        ]
        await asyncio.sleep(0)
        busy.go.set()
        await asyncio.gather(busy.done, *stored)
        first, refused, second, bug = await asyncio.gather(*asked, return_exceptions=True)
        assert (first, second) == (1, 2)
        assert isinstance(refused, StorageError)
        assert isinstance(bug, Exception)

    using(database, work)
    assert assert_counts_are_true(database, batch).succeeded == 5


# The database is away


def test_while_another_process_locks_the_database_nothing_starts_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.db"
    database = impatient(path, monkeypatch)
    batch, calls = running(database, 20)

    async def work(recorder: Recorder) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        stored = [recorder.record(ending(call)) for call in calls[:10]]
        await until(lambda: not recorder.ready)
        with pytest.raises(StorageError):
            await recorder.call(lambda _: None)
        stored += [recorder.record(ending(call)) for call in calls[10:]]
        assert not any(one.done() for one in stored)
        other.execute("ROLLBACK")
        other.close()
        await asyncio.gather(*stored)
        await until(lambda: recorder.ready)

    using(database, work)
    assert assert_counts_are_true(database, batch).succeeded == 20
    assert batch_status(database, batch) == BatchStatus.COMPLETED
    database.close()


def test_with_nothing_to_store_the_recorder_finds_out_by_itself_that_the_database_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.db"
    database = impatient(path, monkeypatch)

    async def work(recorder: Recorder) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageError):
            await recorder.call(lambda _: None)
        assert not recorder.ready
        other.execute("ROLLBACK")
        other.close()
        await until(lambda: recorder.ready)
        assert await recorder.call(lambda _: 7) == 7

    using(database, work)
    database.close()


def test_a_connection_cut_in_the_middle_of_a_commit_loses_no_ending(postgres_url: str) -> None:
    database = Database(postgres_url)
    database_module.upgrade(database)
    batch, calls = running(database, 10)

    def cut(connection: Connection) -> None:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def work(recorder: Recorder) -> None:
        busy = Busy(recorder)
        await busy.begin()
        stored = [recorder.record(ending(call)) for call in calls]
        cutting = asyncio.ensure_future(recorder.call(cut))
        await asyncio.sleep(0)
        busy.go.set()
        with pytest.raises(StorageError):
            await cutting
        await asyncio.gather(busy.done, *stored)
        await until(lambda: recorder.ready)

    using(database, work)
    assert assert_counts_are_true(database, batch).succeeded == 10
    database.close()


class Ambiguous(Database):
    """A database whose answer to a commit gets lost once: it was done, and the caller hears of a broken connection."""

    armed = False

    @contextmanager
    def write(self, *, hurried: bool = False) -> Iterator[Connection]:
        with super().write(hurried=hurried) as connection:
            yield connection
        if self.armed:
            self.armed = False
            raise sa.exc.OperationalError("COMMIT", None, ConnectionResetError("connection reset by peer"))


def test_an_ending_that_was_stored_without_our_hearing_of_it_is_stored_once(database_url: str) -> None:
    database = Ambiguous(database_url)
    database_module.upgrade(database)
    batch, calls = running(database, 6)
    database.armed = True

    async def work(recorder: Recorder) -> None:
        await asyncio.gather(*(recorder.record(ending(call)) for call in calls))
        assert not database.armed

    using(database, work)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(results)).scalar_one() == 6
    assert {row["outcome"] for row in attempt_rows(database, batch)} == {"succeeded"}
    assert assert_counts_are_true(database, batch).succeeded == 6
    assert finish(database, batch), "what the janitor does a little later"
    database.close()


# Memory


def test_too_much_waiting_to_be_stored_stops_new_calls_until_it_is_stored(database: Database) -> None:
    batch, calls = running(database, 5)

    async def work(recorder: Recorder) -> None:
        busy = Busy(recorder)
        await busy.begin()
        assert recorder.ready
        big = b"x" * (MOST_BACKLOG_BYTES // 4)
        stored = [recorder.record(ending(call, response=big)) for call in calls]
        assert not recorder.ready
        busy.go.set()
        await asyncio.gather(busy.done, *stored)
        assert recorder.ready

    using(database, work)
    assert assert_counts_are_true(database, batch).succeeded == 5


def test_an_ending_without_a_call_needs_no_attempt(database: Database) -> None:
    batch = make_batch(database, 1)
    (job,) = claim(database)
    without = Ending(job.id, job.batch_id, job.epoch, JobStatus.FAILED, error_code="too_large", error_message="big")

    async def work(recorder: Recorder) -> None:
        await recorder.record(without)

    using(database, work)
    assert statuses(database, batch) == ["failed"]


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_group_that_met_another_in_a_circle_is_repeated_at_once(database: Database) -> None:
    batch, (call,) = running(database, 1)
    times = 0

    def meets_another(connection: Connection) -> str:
        nonlocal times
        times += 1
        if times < 3:
            connection.execute(sa.text("DO $$ BEGIN RAISE EXCEPTION 'a circle' USING ERRCODE = '40P01'; END $$"))
        return "done"

    async def work(recorder: Recorder) -> None:
        stored = recorder.record(ending(call))
        assert await recorder.call(meets_another) == "done"
        await stored
        assert recorder.away_since is None

    using(database, work)
    assert times == 3
    assert statuses(database, batch) == ["succeeded"]
