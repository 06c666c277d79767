"""In a provider's trouble few calls are made, also of those that had been granted already, and all are back at once with it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis

from models.database import Database, upgrade
from models.errors import Untranslatable
from models.request import FailureKind, Response
from tests.making import attempt_rows, job_rows, make_batch, statuses
from tests.worker.bench import Bench, bench, until
from tests.worker.scripted import ANSWER, Sent, chats, config, play, refusal
from worker.keys import buckets, pool_name
from worker.limits.limiter import LimitedKey

PROBE_EVERY = 0.3


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path}/truckllm.db")
    upgrade(made)
    yield made
    made.close()


@pytest.fixture
def worker(database: Database, valkey_url: str) -> Iterator[Bench]:
    """A worker at 6,000 requests a minute whose breaker lets a probe go every 0.3 s."""
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.flushall()
    with bench(config({"limit_req_per_min": 6000}), database, valkey_url) as made:
        breaker = made.runners["p"]._breaker
        window, least, share, _, hurry = breaker._settings
        breaker._settings = (window, least, share, PROBE_EVERY, hurry)
        yield made


def drain(worker: Bench, story: Callable[[], Awaitable[None]], seconds: float = 30.0) -> None:
    """Drains provider `p` while a story goes on."""

    async def work() -> None:
        draining = asyncio.ensure_future(worker.runners["p"].drain(60))
        await story()
        worker.runners["p"].stop()
        await draining
        await until(lambda: not worker.runners["p"].in_flight and not worker.runners["p"].held)

    worker.run(work(), seconds)


def test_an_outage_costs_few_calls_and_who_was_snoozed_for_half_a_minute_comes_when_it_is_over(
    worker: Bench, database: Database
) -> None:
    down = True

    async def script(_: Sent) -> Response:
        return refusal(FailureKind.SERVER, 503) if down else ANSWER

    batch = make_batch(database, chats(10))
    played = play(worker, script)
    waits: list[float] = []

    async def story() -> None:
        nonlocal down
        await until(lambda: all(row["attempts"] >= 2 for row in job_rows(database, batch)), 25)
        assert len(played.sent) <= 26, "each once before anybody knew, then only probes"
        now = worker.recorder.now()
        waits.extend(row["not_before"] - now for row in job_rows(database, batch) if row["not_before"])
        down = False
        make_batch(database, chats(1))
        began = time.monotonic()
        await until(lambda: set(statuses(database, batch)) == {"succeeded"}, 15)
        assert time.monotonic() - began < 4

    drain(worker, story)
    assert max(waits) > 6


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
        assert len(played.sent) - sent <= 1 + 1.2 / PROBE_EVERY + 1

    drain(worker, story)
    rows = attempt_rows(database, batch)
    assert len(rows) == len(played.sent), "what stayed here isn't in the ledger"
    assert {row["outcome"] for row in rows} == {"failed"}


def test_a_pool_that_refuses_is_left_alone_longer_each_time(worker: Bench, database: Database) -> None:
    async def script(_: Sent) -> Response:
        return refusal(FailureKind.RATE_LIMIT, 429)

    make_batch(database, chats(800))
    played = play(worker, script)

    async def story() -> None:
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 5, 10)

    drain(worker, story)
    by_second = Counter(int(call.at - played.sent[0].at) for call in played.sent)
    assert len(played.sent) <= 100, f"{len(played.sent)} of 500 that the limit would let: {by_second}"


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
