"""In a provider's trouble few calls are made, also of those that had been granted already, and all are back at once with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from models.database import Database
from models.errors import Untranslatable
from models.request import FailureKind, Response
from models.tables import jobs
from tests.making import attempt_rows, job_rows, make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import ANSWER, Sent, chats, config, play, refusal
from worker import engine as engine_module
from worker.limits.limiter import LimitedKey
from worker.pools import buckets, pool_name

DATABASES = ["sqlite"]

PROBE_EVERY = 0.2


@pytest.fixture
def worker(start_worker: Callable[..., Bench]) -> Bench:
    """A worker at 6,000 requests a minute whose breaker lets a probe go every 0.2 s."""
    made = start_worker(config({"limit_req_per_min": 6000}))
    breaker = made.runners["p"]._breaker
    window, least, share, _, hurry = breaker._settings
    breaker._settings = (window, least, share, PROBE_EVERY, hurry)
    return made


def drain(worker: Bench, story: Callable[[], Awaitable[None]], seconds: float = 90.0) -> None:
    """Drains provider `p` while a story goes on."""

    async def work() -> None:
        draining = asyncio.ensure_future(worker.runners["p"].drain(600))
        await story()
        worker.runners["p"].stop()
        await draining
        await until(lambda: not worker.runners["p"].in_flight and not worker.runners["p"].held)

    worker.run(work(), seconds)


def test_an_outage_costs_few_calls_and_who_was_snoozed_for_long_comes_when_it_is_over(
    worker: Bench, database: Database
) -> None:
    down = True

    async def script(_: Sent) -> Response:
        return refusal(FailureKind.SERVER, 503) if down else ANSWER

    batch = make_batch(database, chats(8))
    played = play(worker, script)

    async def story() -> None:
        nonlocal down
        await until(lambda: all(row["attempts"] >= 2 for row in job_rows(database, batch)), 25)
        assert len(played.sent) <= 22, "each once before anybody knew, then only probes"
        await until(lambda: all(row["not_before"] for row in job_rows(database, batch)))
        with database.write() as connection:
            connection.execute(jobs.update().values(not_before=worker.recorder.now() + 300))
        down = False
        make_batch(database, chats(1))
        await until(lambda: set(statuses(database, batch)) == {"succeeded"})

    drain(worker, story)


def test_what_was_granted_before_the_breaker_opened_stays_here(worker: Bench, database: Database) -> None:
    async def script(_: Sent) -> Response:
        return refusal(FailureKind.SERVER, 503)

    batch = make_batch(database, chats(400))
    played = play(worker, script)
    breaker = worker.runners["p"]._breaker

    async def story() -> None:
        await until(lambda: breaker.shut("p"), 10)
        sent = len(played.sent)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 1.2, 5)
        probes = (time.monotonic() - began) / PROBE_EVERY
        assert len(played.sent) - sent <= probes + 2

    drain(worker, story)
    rows = attempt_rows(database, batch)
    assert len(rows) == len(played.sent), "what stayed here isn't in the ledger"
    assert {row["outcome"] for row in rows} == {"failed"}


def test_a_pool_that_refuses_is_left_alone_longer_each_time(worker: Bench, database: Database) -> None:
    async def script(_: Sent) -> Response:
        return refusal(FailureKind.RATE_LIMIT, 429)

    make_batch(database, chats(800))
    played = play(worker, script)
    cooling = worker.runners["p"].engine._cooling
    rests: list[tuple[float, float]] = []
    cools = cooling.cools

    def note(pool: str, seconds: float) -> None:
        rests.append((time.monotonic(), seconds))
        cools(pool, seconds)

    cooling.cools = note  # type: ignore[method-assign]

    async def story() -> None:
        await until(lambda: len(rests) >= 2, 20)

    drain(worker, story)
    (began, first), (_, second), *_ = rests
    assert 1 <= first <= 2 <= second <= 4
    early = [call for call in played.sent if began + 0.1 < call.at < began + first - 0.1]
    assert early == [], "a pool that rests is left alone, by what was granted before too"


def test_a_pool_whose_answers_take_long_counts_as_open_when_it_does_not_refuse(
    worker: Bench, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "LET_IN_SECONDS", 0.05)
    done = asyncio.Event()

    async def script(_: Sent) -> Response:
        await done.wait()
        return ANSWER

    make_batch(database, chats(1))
    played = play(worker, script)
    engine = worker.runners["p"].engine
    (key,) = engine.ring.usable("m")
    engine._cooling.cools(key.pool, 0.0)
    assert engine._cooling._rounds

    async def story() -> None:
        await until(lambda: bool(played.sent) and not engine._cooling._rounds, 5)
        done.set()

    drain(worker, story)


def test_what_was_granted_and_stays_here_takes_nothing_from_the_limits(worker: Bench, database: Database) -> None:
    make_batch(database, chats(200))
    played = play(worker)
    engine = worker.runners["p"].engine
    engine.may_launch = lambda prepared, key: False  # type: ignore[method-assign]
    (key,) = engine.ring.usable("m")

    async def story() -> None:
        looked = time.monotonic()
        await until(lambda: time.monotonic() - looked > 0.5, 5)

    drain(worker, story)
    assert played.sent == []

    async def booked() -> int:
        await worker.runners["p"]._flights._tally.flush()
        (room,) = await worker.limiter.room([key])
        return sum(bucket.booked for bucket in room.buckets)

    assert worker.run(booked()) == 0


def test_a_job_that_cannot_be_translated_says_nothing_of_the_provider_and_takes_nothing_from_its_limits(
    worker: Bench, database: Database
) -> None:
    async def script(_: Sent) -> Response:
        raise Untranslatable("logprobs", "this provider has none")

    batch = make_batch(database, chats(3))
    play(worker, script)
    breaker = worker.runners["p"]._breaker

    async def story() -> None:
        await breaker.record("p", 0, 9)
        await until(lambda: statuses(database, batch) == ["failed"] * 3, 10)
        await worker.runners["p"]._flights._tally.flush()
        assert breaker.shut("p"), "nobody has asked the provider"
        settings = worker.config.provider("p")
        (key,) = settings.keys
        limited = LimitedKey(f"p/{key.id}", pool_name(settings, key), buckets(settings, key, "m"))
        (room,) = await worker.limiter.room([limited])
        assert [bucket.booked for bucket in room.buckets] == [0]

    drain(worker, story)
    assert {row["error_code"] for row in job_rows(database, batch)} == {"untranslatable"}
    assert attempt_rows(database, batch) == []
