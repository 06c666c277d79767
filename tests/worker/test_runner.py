"""A drain sends what it may and nothing else: within its bounds, never without a lease, a database and Redis, and it lets go cleanly."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models import database as database_module
from models.database import Database
from models.request import Request, Response, Usage
from models.states import BatchStatus
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import keys as key_store
from models.store import workers as worker_store
from models.store.batches import NewJob
from models.tables import jobs
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.making import (
    announce,
    assert_counts_are_true,
    attempt_rows,
    batch_status,
    claim,
    job_rows,
    make_batch,
    new_job,
    statuses,
)
from tests.servers import SandboxProcess, Valkey, wait_for
from tests.worker.bench import Bench, bench, until
from worker import lease as lease_module
from worker.limits.shapes import Charge
from worker.providers.openai import OpenAI

DATABASES = ["sqlite"]


@pytest.fixture
def start_worker(
    write_config: Callable[..., Path], database: Database, valkey_url: str
) -> Iterator[Callable[..., Bench]]:
    """A worker for a sandbox; `limits` are its OpenAI key's, `worker` its own settings."""
    with ExitStack() as stack:

        def start(
            sandbox: SandboxProcess, *, redis_url: str = valkey_url, limits: dict[str, Any] | None = None, **worker: Any
        ) -> Bench:
            # a key of its own, so that no bucket or breaker of another test is met
            key = {"id": f"k{time.time_ns()}", "secret": "sk-canary-runner", **(limits or {})}
            path = write_config(
                sandbox.url,
                providers=("openai", "claude"),
                keys={"openai": [key]},
                settings={name: {"connect_timeout_seconds": 60} for name in ("openai", "claude")},
                worker={"grace_seconds": 1, **worker},
            )
            return stack.enter_context(bench(path, database, redis_url))

        yield start


def test_a_drain_ends_every_job_with_one_call_each(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database
) -> None:
    batch = make_batch(database, 150)
    worker = start_worker(sandbox)
    assert worker.drain() is False
    assert assert_counts_are_true(database, batch).succeeded == 150
    wait_for(lambda: batch_status(database, batch) == BatchStatus.COMPLETED, "the batch to be completed")
    calls = assert_ledger_is_the_log(database, sandbox, config=worker.config)
    assert len(calls) == 150
    assert {row["epoch"] for row in job_rows(database, batch)} == {2}


def test_a_drain_that_runs_out_of_time_says_so_and_leaves_nothing_claimed(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database
) -> None:
    batch = make_batch(database, 100)
    worker = start_worker(sandbox, limits={"limit_req_per_min": 120})
    drains = 0
    while not (
        counts := assert_counts_are_true(database, batch)
    ).succeeded:  # its time may go by while this machine stands still
        assert worker.drain(budget=1.0) is True
        drains += 1
    assert counts.succeeded <= 8 * drains
    assert statuses(database, batch).count("queued") == counts.left
    assert len(attempt_rows(database, batch)) == counts.succeeded


def test_no_more_calls_are_under_way_than_the_worker_may_have(
    start_sandbox: Callable[..., SandboxProcess], start_worker: Callable[..., Bench], database: Database
) -> None:
    sandbox = start_sandbox(latency=0.05)
    make_batch(database, 40)
    start_worker(sandbox, concurrency=6).drain()
    (provider,) = sandbox.summary()["providers"]
    assert provider["max_in_flight"] == 6
    assert provider["calls"] == 40


def test_a_batch_cancelled_while_it_is_worked_on_sends_no_more(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database
) -> None:
    batch = make_batch(database, 100)
    worker = start_worker(sandbox, limits={"limit_req_per_min": 300})
    runner = worker.runners["openai"]

    async def cancel_meanwhile() -> int:
        drain = asyncio.ensure_future(runner.drain(5.0))
        await until(sent)
        with database.write() as connection:
            batch_store.cancel(connection, batch)
            while job_store.cancel_queued(connection, batch, 1.0):
                pass
        before = sent()
        await drain
        await until(lambda: not runner.in_flight and not runner.held)
        return before

    def sent() -> int:
        with database.read() as connection:
            return int(connection.execute(sa.text("SELECT count(*) FROM attempts")).scalar_one())

    before = worker.run(cancel_meanwhile())
    assert sent() == before, "what wasn't announced before the cancel isn't sent after it"
    counts = assert_counts_are_true(database, batch)
    assert counts.left == 0
    assert counts.cancelled >= 90
    assert_ledger_is_the_log(database, sandbox, config=worker.config)


# What must be there before anything is sent


def test_without_redis_nothing_is_sent_and_nothing_stays_claimed(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database, valkey: Valkey
) -> None:
    batch = make_batch(database, 5)
    worker = start_worker(sandbox, redis_url=valkey.url)
    valkey.kill()
    worker.drain(budget=0.5)
    assert sandbox.log() == []
    assert statuses(database, batch) == ["queued"] * 5
    assert attempt_rows(database, batch) == []
    valkey.start()
    worker.drain()
    assert statuses(database, batch) == ["succeeded"] * 5


def test_while_the_database_takes_no_commit_nothing_is_sent(
    sandbox: SandboxProcess,
    start_worker: Callable[..., Bench],
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(database_module, "LOCK_WAIT_SECONDS", 0.1)
    batch = make_batch(database, 5)
    worker = start_worker(sandbox)
    other = sqlite3.connect(tmp_path / "truckllm.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    runner = worker.runners["openai"]
    assert worker.run(runner.drain(0.8)) is True
    assert sandbox.log() == []
    other.execute("ROLLBACK")
    other.close()
    worker.drain()
    assert statuses(database, batch) == ["succeeded"] * 5


def test_without_a_fresh_heartbeat_nothing_is_sent(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(database, 5)
    worker = start_worker(sandbox)
    later = lease_module.awake_clock() + lease_module.FRESH_SECONDS + 1
    monkeypatch.setattr(lease_module, "awake_clock", lambda: later)
    assert worker.drain(budget=0.3) is True
    assert sandbox.log() == []
    assert statuses(database, batch) == ["queued"] * 5


def test_calls_granted_before_the_lease_was_lost_are_taken_back_before_they_leave(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(database, 3)
    worker = start_worker(sandbox, limits={"limit_req_per_min": 90})
    runner = worker.runners["openai"]

    async def lose_the_lease() -> None:
        drain = asyncio.ensure_future(runner.drain(60))
        await until(lambda: runner.in_flight)
        later = lease_module.awake_clock() + lease_module.FRESH_SECONDS + 1
        monkeypatch.setattr(lease_module, "awake_clock", lambda: later)
        await until(lambda: not runner.in_flight and not runner.held)
        runner.stop()
        await drain

    worker.run(lose_the_lease())
    sent = [row for row in attempt_rows(database, batch) if row["finished_at"] is not None]
    assert len(attempt_rows(database, batch)) == len(sent) == len(sandbox.log())
    assert statuses(database, batch).count("queued") == 3 - len(sent)


def test_a_new_worker_makes_no_call_on_a_key_that_was_out_before_it_started(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database, valkey: Valkey
) -> None:
    with database.write() as connection:
        key_store.quarantine(
            connection,
            provider="openai",
            key_id="only",
            mark=key_store.fingerprint("sk-canary-runner"),
            pool="openai/only",
            reason="quota: no money",
            now=0.0,
            until=time.time() + 500,
        )
    batch = make_batch(database, 3)
    worker = start_worker(sandbox, redis_url=valkey.url, limits={"id": "only"})
    assert worker.drain() is False
    assert sandbox.log() == []
    assert statuses(database, batch) == ["queued"] * 3


# Ending


def test_told_to_stop_it_finishes_what_is_under_way_and_gives_the_rest_back(
    start_sandbox: Callable[..., SandboxProcess], start_worker: Callable[..., Bench], database: Database
) -> None:
    sandbox = start_sandbox(latency=0.3)
    batch = make_batch(database, 50)
    worker = start_worker(sandbox, limits={"limit_req_per_min": 600})
    runner = worker.runners["openai"]

    async def stop_in_the_middle() -> int:
        drain = asyncio.ensure_future(runner.drain(10.0))
        await until(lambda: len(sandbox.log()) >= 2)
        runner.stop()
        await drain
        return await runner.land(60.0)

    assert worker.run(stop_in_the_middle()) == 0
    worker.run(worker.recorder.call(lambda _: None))
    counts = assert_counts_are_true(database, batch)
    assert counts.succeeded >= 1
    assert statuses(database, batch).count("queued") == counts.left
    assert {row["outcome"] for row in attempt_rows(database, batch)} == {"succeeded"}
    assert_ledger_is_the_log(database, sandbox, config=worker.config)
    assert worker.run(runner.drain(1.0)) is False, "it starts nothing more"


def test_calls_longer_than_the_grace_stay_unknown_and_their_jobs_are_queued(
    start_sandbox: Callable[..., SandboxProcess], start_worker: Callable[..., Bench], database: Database
) -> None:
    sandbox = start_sandbox(latency=300)
    batch = make_batch(database, 4)
    worker = start_worker(sandbox)
    runner = worker.runners["openai"]

    async def give_up() -> int:
        drain = asyncio.ensure_future(runner.drain(10.0))
        await until(lambda: len(sandbox.log()) == 4)
        runner.stop()
        await drain
        return await runner.land(0.1)

    assert worker.run(give_up()) == 4
    assert statuses(database, batch) == ["queued"] * 4
    assert [row["outcome"] for row in attempt_rows(database, batch)] == ["unknown"] * 4


class Late(OpenAI):
    """Its replies come when the test wants them to."""

    come: asyncio.Event

    async def generate(self, request: Request) -> Response:
        response = await super().generate(request)
        await self.come.wait()
        return response


def test_replies_that_come_after_the_worker_was_taken_for_dead_are_fenced_with_their_tokens(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database
) -> None:
    batch = make_batch(database, 5)
    worker = start_worker(sandbox)
    runner = worker.runners["openai"]
    late = Late(runner.engine.provider.config, runner.engine.provider.sender)
    runner.engine.provider = late

    async def taken_for_dead() -> None:
        late.come = asyncio.Event()
        drain = asyncio.ensure_future(runner.drain(60))
        await until(lambda: len(sandbox.log()) == 5)
        with database.write() as connection:
            worker_store.remove(connection, [worker.lease.worker_id])
            job_store.rescue(connection, [worker.lease.worker_id])
            # out of this worker's sight, so that it doesn't do them a second time itself
            connection.execute(jobs.update().values(lane="elsewhere"))
        await worker.lease.beat()
        late.come.set()
        await drain
        await until(lambda: not runner.in_flight and not runner.held)

    worker.run(taken_for_dead())
    rows = attempt_rows(database, batch)
    assert [row["outcome"] for row in rows] == ["fenced"] * 5
    assert all(row["input_tokens"] > 0 for row in rows)
    assert statuses(database, batch) == ["queued"] * 5
    with database.write() as connection:
        connection.execute(jobs.update().values(attempts=1))  # the rescue knew of no other calls
    assert_ledger_is_the_log(database, sandbox, config=worker.config)


# Inputs and plugins that misbehave


def test_jobs_that_cannot_be_sent_fail_without_a_call_and_hold_nobody_up(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database
) -> None:
    unreadable = NewJob(0, "broken", "openai", "gpt-4o", b"{not json", "openai", "chat")
    untranslatable = NewJob(1, "logprobs", "claude", "claude-x", b'{"prompt": "x", "logprobs": true}', "simple", "chat")
    strange = NewJob(2, "other", "openai", "gpt-4o", b'{"contents": []}', "gemini", "chat")
    batch = make_batch(database, [unreadable, untranslatable, strange, new_job(3)])
    worker = start_worker(sandbox)
    worker.drain("openai")
    worker.drain("claude")
    rows = job_rows(database, batch)
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "succeeded"]
    assert [row["error_code"] for row in rows[:3]] == ["unreadable_input", "untranslatable", "untranslatable"]
    assert "logprobs" in rows[1]["error_message"]
    assert [row["attempts"] for row in rows] == [0, 0, 0, 1]
    assert len(attempt_rows(database, batch)) == len(sandbox.log()) == 1
    wait_for(lambda: batch_status(database, batch) == BatchStatus.COMPLETED, "the batch to be completed")


class Faulty(OpenAI):
    """A plugin with bugs, each for the prompt that asks for it."""

    def _trip(self, where: str, request: Request) -> None:
        if f"trip {where}" in str(request.input):
            raise ZeroDivisionError(f"sk-canary-runner in {where}")

    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        self._trip("charge", request)
        return super().charge(request, input_tokens, output_tokens)

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        if usage.input_tokens > 1000:
            raise ZeroDivisionError
        return super().settled(booked, usage)

    async def generate(self, request: Request) -> Response:
        self._trip("generate", request)
        return await super().generate(request)


def test_a_plugins_bug_harms_only_its_own_job(
    sandbox: SandboxProcess,
    start_worker: Callable[..., Bench],
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bodies = [b'{"prompt": "trip charge"}', b'{"prompt": "trip generate"}', b'{"prompt": "%s"}' % (b"long " * 1000)]
    batch = make_batch(
        database, [*(new_job(n, body=body) for n, body in enumerate(bodies)), *map(new_job, range(3, 30))]
    )
    worker = start_worker(sandbox, retry_for=0)
    engine = worker.runners["openai"].engine
    engine.provider = engine.bookings._provider = Faulty(engine.provider.config, engine.provider.sender)
    worker.drain()
    rows = job_rows(database, batch)
    assert {row["status"] for row in rows[3:]} == {"succeeded"}
    assert (rows[0]["status"], rows[0]["error_code"], rows[0]["attempts"]) == ("failed", "plugin_error", 0)
    assert (rows[1]["status"], rows[1]["error_code"]) == ("failed", "plugin_error")
    assert "ZeroDivisionError" in rows[1]["error_message"]
    assert "canary" not in str([dict(row) for row in rows])
    unknown = [row for row in attempt_rows(database, batch) if row["outcome"] == "unknown"]
    assert {row["job_id"] for row in unknown} <= {rows[1]["id"], rows[2]["id"]}


# A job of another worker


def test_a_drain_leaves_alone_what_another_worker_holds(
    sandbox: SandboxProcess, start_worker: Callable[..., Bench], database: Database
) -> None:
    batch = make_batch(database, 4)
    announce(database, *claim(database, worker_id=77, most=2))
    worker = start_worker(sandbox)
    worker.drain()
    assert statuses(database, batch) == ["running", "running", "succeeded", "succeeded"]
    assert len(sandbox.log()) == 2
