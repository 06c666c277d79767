"""A mistake of ours in storing an ending loses no reply that was paid for where it can be helped, pays for none twice, and hangs no row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from models.database import Database
from models.request import FailureKind, Response
from models.store.endings import Ending
from models.store.endings import record as really_record
from tests.making import assert_counts_are_true, attempt_rows, batch_status, job_rows, make_batch, statuses
from tests.servers import wait_for
from tests.worker.bench import Bench, until
from tests.worker.scripted import ANSWER, Sent, chats, play, refusal
from worker import recorder as recorder_module

DATABASES = ["sqlite"]

Mistake = Callable[[Sequence[Ending]], bool]


@pytest.fixture
def mistaken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mistake], None]:
    """Has the storing of endings raise, after it has begun, where a condition says so."""

    def put(when: Mistake) -> None:
        def record(connection: Connection, endings: Sequence[Ending], *more: Any) -> set[int]:
            touched = really_record(connection, endings, *more)
            if endings and when(endings):
                raise KeyError("a mistake")
            return touched

        monkeypatch.setattr(recorder_module, "record", record)

    return put


def work(worker: Bench, database: Database, batch: int) -> None:
    """Works until every row has its outcome and nothing is held, with the janitor's rounds."""
    runner = worker.runners["p"]

    async def all_of_it() -> None:
        draining = asyncio.ensure_future(runner.drain(60))
        for _ in range(60):
            await worker.janitor.tick()
            if {"queued", "running"}.isdisjoint(statuses(database, batch)):
                break
            await asyncio.sleep(0.05)
        runner.stop()
        await draining
        await until(lambda: not runner.in_flight and not runner.held)

    worker.run(all_of_it())


def test_a_reply_that_could_not_be_stored_the_first_time_is_stored_the_second(
    start_worker: Callable[..., Bench], database: Database, mistaken: Callable[[Mistake], None]
) -> None:
    met: list[int] = []

    def once(endings: Sequence[Ending]) -> bool:
        met.append(len(endings))
        return len(met) == 1

    worker = start_worker()
    batch = make_batch(database, chats(1))
    played = play(worker)
    mistaken(once)
    work(worker, database, batch)
    assert statuses(database, batch) == ["succeeded"]
    assert len(played.sent) == 1
    assert [row["outcome"] for row in attempt_rows(database, batch)] == ["succeeded"]


@pytest.mark.parametrize("reply", [ANSWER, refusal(FailureKind.RATE_LIMIT, 429)], ids=["an answer", "a refusal"])
def test_a_row_whose_endings_cannot_be_stored_fails_once_paid_and_seen_in_the_ledger(
    start_worker: Callable[..., Bench],
    database: Database,
    mistaken: Callable[[Mistake], None],
    caplog: pytest.LogCaptureFixture,
    reply: Response,
) -> None:
    worker = start_worker()
    batch = make_batch(database, chats(4))
    first = job_rows(database, batch)[0]["id"]

    async def script(call: Sent) -> Response:
        return reply if call.prompt == "0" else ANSWER

    played = play(worker, script)
    mistaken(lambda endings: any(ending.job_id == first for ending in endings))
    with caplog.at_level(logging.ERROR, "truckllm.recorder"):
        work(worker, database, batch)
    assert statuses(database, batch) == ["failed", "succeeded", "succeeded", "succeeded"]
    assert sorted(played.prompts) == ["0", "1", "2", "3"], "nothing is asked twice"
    row = job_rows(database, batch)[0]
    assert (row["error_code"], row["attempts"]) == ("internal_error", 1)
    assert "KeyError" in row["error_message"]
    (call,) = [call for call in attempt_rows(database, batch) if call["job_id"] == first]
    assert (call["outcome"], call["finished_at"] is not None) == ("unknown", True)
    assert_counts_are_true(database, batch)
    assert any(one.exc_info for one in caplog.records)
    wait_for(lambda: batch_status(database, batch) == "completed", "all to add up", 30)


def test_what_cannot_be_stored_at_all_is_kept_until_it_can_and_asked_for_by_nobody(
    start_worker: Callable[..., Bench],
    database: Database,
    mistaken: Callable[[Mistake], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed: list[object] = []

    def fails(*_: object) -> bool:
        failed.append(None)
        raise KeyError("another mistake")

    worker = start_worker()
    batch = make_batch(database, chats(1))
    played = play(worker)
    runner = worker.runners["p"]
    monkeypatch.setattr(recorder_module, "AGAIN_SECONDS", 0.05)

    async def story() -> None:
        draining = asyncio.ensure_future(runner.drain(60))
        with monkeypatch.context() as patch:
            patch.setattr(recorder_module, "fail_plainly", fails)
            mistaken(lambda _: True)
            await until(lambda: len(failed) >= 3)
            assert list(runner.held) == [job_rows(database, batch)[0]["id"]]
        await until(lambda: statuses(database, batch) == ["failed"])
        runner.stop()
        await draining
        await until(lambda: not runner.held)

    worker.run(story())
    assert len(played.sent) == 1
