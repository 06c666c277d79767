"""A worker answers for exactly the jobs that it runs, and what it holds of a limit it lets go when it doesn't need it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from models.database import Database
from models.request import Response, Usage
from models.states import JobStatus
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store.endings import Ending
from tests.making import assert_counts_are_true, attempt_rows, job_rows, make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import ANSWER, Gate, Sent, chat, chats, config, play
from worker import runner as runner_module

DATABASES = ["sqlite"]

Start = Callable[..., Bench]


def ours(worker: Bench, database: Database) -> dict[int, int]:
    """What the database says this worker runs: id → epoch."""
    with database.read() as connection:
        return job_store.orphans(connection, worker.lease.worker_id)


# Held is what runs


def test_a_job_claimed_again_in_the_very_commit_of_its_last_ending_stays_held(
    start_worker: Start, database: Database
) -> None:
    worker = start_worker()
    runner = worker.runners["p"]
    played = play(worker)
    batch = make_batch(database, chats(1))

    async def story() -> None:
        gate = played.script = Gate()
        drain = asyncio.ensure_future(runner.drain(20))
        await until(lambda: len(played.sent) == 1)
        ((job, epoch),) = runner.held.items()
        busy, go = threading.Event(), threading.Event()

        def occupy(_: object) -> None:
            busy.set()
            assert go.wait(30)

        occupied = asyncio.ensure_future(worker.recorder.call(occupy))
        await asyncio.to_thread(busy.wait, 30)
        # while the database is busy with something else, a call ends with "again", and the drain claims
        runner._flights.store(Ending(job, batch, epoch, JobStatus.QUEUED))
        claim = asyncio.ensure_future(runner._claim(1))
        await until(lambda: worker.recorder._operations and worker.recorder._endings)
        go.set()
        await asyncio.gather(occupied, claim)
        assert runner.held == {job: epoch + 2} == ours(worker, database)
        gate.opened.set()
        await until(lambda: not runner.held and not runner.in_flight)
        await drain

    worker.run(story())
    assert statuses(database, batch) == ["succeeded"]
    assert_counts_are_true(database, batch)


# Paid once


def test_a_call_that_cannot_be_judged_is_never_paid_again(start_worker: Start, database: Database) -> None:
    async def script(call: Sent) -> Response:
        if call.prompt == "1":
            return Response(b"{}", 200, usage=Usage(input_tokens="many", output_tokens=1), text="ok")  # type: ignore[arg-type]
        return ANSWER

    worker = start_worker()
    played = play(worker, script)
    batch = make_batch(database, chats(3))
    worker.drain("p")
    rows = job_rows(database, batch)
    assert [row["status"] for row in rows] == ["succeeded", "failed", "succeeded"]
    assert (rows[1]["error_code"], rows[1]["attempts"]) == ("internal_error", 1)
    assert "TypeError" in rows[1]["error_message"]
    assert [row["outcome"] for row in attempt_rows(database, batch)] == ["succeeded", "unknown", "succeeded"]
    worker.drain("p")
    assert len(played.sent) == 3


# Holds of the limiter: a bucket kept free for a call too big for the moment

TOKENS = {"limit_tokens_per_min": 6000}
"""About 100 tokens a second; idle, hardly more than a second's worth."""


def test_what_was_saved_up_for_a_big_job_outlasts_the_drains_budget(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(TOKENS))
    played = play(worker)
    make_batch(database, [chat(0, max_tokens=250)])
    drains = 0
    while not played.sent and drains < 12:  # usually four; in any single one it never gets enough
        worker.run(worker.runners["p"].drain(0.6))
        drains += 1
    assert played.sent
    assert drains >= 2


def test_what_was_saved_up_goes_on_with_the_worker_that_takes_the_job_next(
    start_worker: Start, database: Database
) -> None:
    settings = config(TOKENS)
    one, other = start_worker(settings), start_worker(settings)
    sent = play(one).sent
    play(other).sent = sent
    make_batch(database, [chat(0, max_tokens=250)])
    drains = 0
    while not sent and drains < 12:
        one.run(one.runners["p"].drain(0.6))
        other.run(other.runners["p"].drain(0.6))
        drains += 2
    assert sent


@pytest.mark.parametrize("stop", [batch_store.cancel, lambda c, batch: batch_store.pause(c, batch, "by a person")])
def test_a_big_job_whose_batch_is_stopped_keeps_nobody_out(
    start_worker: Start, database: Database, monkeypatch: pytest.MonkeyPatch, stop: Callable[..., object]
) -> None:
    monkeypatch.setattr(runner_module, "LOOK_SECONDS", 0.1)
    worker = start_worker(config(TOKENS))
    runner, played = worker.runners["p"], play(worker)
    big = make_batch(database, [chat(0, "big", max_tokens=5000)])

    async def story() -> float:
        drain = asyncio.ensure_future(runner.drain(20))
        await until(lambda: runner._waiting.holding)
        make_batch(database, chats(3, max_tokens=1))
        with database.write() as connection:
            stop(connection, big)
        taken = await until(lambda: len(played.sent) == 3)
        runner.stop()
        await drain
        return taken

    assert worker.run(story()) < 3
    assert sorted(played.prompts) == ["0", "1", "2"]
    assert statuses(database, big) in (["queued"], ["cancelled"])


def test_while_the_provider_is_down_a_big_job_keeps_nobody_out_of_a_shared_pool(
    start_worker: Start, database: Database
) -> None:
    """The breaker lets nothing through, so the hold would only idle."""
    pool = {"pool": f"pool-{time.time_ns()}", "limit_tokens_per_min": 6000}
    worker = start_worker(config(pool, providers=("p", "q")))
    runner, played = worker.runners["p"], play(worker, provider="q")
    make_batch(database, [chat(0, "big", max_tokens=5000)])

    async def story() -> None:
        drain = asyncio.ensure_future(runner.drain(20))
        await until(lambda: runner._waiting.holding)
        await runner._breaker.record("p", 0, 10)
        await until(lambda: not runner._waiting.holding)
        make_batch(database, chats(1, lane="q", max_tokens=1))
        other = asyncio.ensure_future(worker.runners["q"].drain(20))
        assert await until(lambda: played.sent) < 1.5, "a hold that nobody drops lapses after two seconds"
        runner.stop()
        await asyncio.gather(drain, other)

    worker.run(story())
