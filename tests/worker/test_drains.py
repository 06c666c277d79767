"""A drain starts all that may start and costs little while nothing may: no job, model or provider stands in another's way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from models.config import RouteConfig
from models.database import Database
from models.request import FailureKind, Response
from models.store import jobs as job_store
from models.tables import jobs
from tests.making import announce, claim, job_rows, make_batch, make_worker, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import Sent, chat, chats, config, play, refusal
from worker import standings

DATABASES = ["sqlite"]

Start = Callable[..., Bench]


def models(sent: list[Sent]) -> Counter[str]:
    return Counter(call.model for call in sent)


def drain_until(worker: Bench, done: Callable[[], Any], seconds: float = 60.0) -> float:
    """Has provider `p` drained until something holds. How long that took, as `until` counts seconds."""
    runner = worker.runners["p"]

    async def work() -> float:
        drain = asyncio.ensure_future(runner.drain(600))
        taken = await until(done, seconds)
        runner.stop()
        await drain
        return taken

    return worker.run(work())


# Nothing to do


def test_a_drain_without_jobs_ends_at_once_whatever_others_have_snoozed(
    start_worker: Start, database: Database
) -> None:
    worker = start_worker(config(providers=("p", "q")))
    make_batch(database, chats(100, lane="q"))
    with database.write() as connection:
        connection.execute(jobs.update().values(not_before=worker.recorder.now() + 0.01 * jobs.c.position))
    began = time.monotonic()
    assert not worker.run(worker.runners["p"].drain(60))
    assert time.monotonic() - began < 30


# Limits of single models


def test_a_models_own_limit_holds_up_no_other_model(start_worker: Start, database: Database) -> None:
    worker = start_worker(config({"models": {"slow": {"limit_req_per_min": 6}}}))
    played = play(worker)
    make_batch(database, [chat(n, model="slow" if n < 500 else "fast") for n in range(800)])
    began = time.monotonic()
    assert drain_until(worker, lambda: models(played.sent)["fast"] == 300) < 30, "the slow ones would take minutes"
    assert 1 <= models(played.sent)["slow"] <= (time.monotonic() - began) / 10 + 2
    assert Counter(row["status"] for row in job_rows(database, 1) if row["model"] == "slow")["failed"] == 0


def test_a_models_own_limit_leaves_none_of_the_keys_limit_unused(start_worker: Start, database: Database) -> None:
    """Beside a provider that has no slow model to wait for: whatever else holds this machine up holds up both."""
    key = {"limit_req_per_min": 3000, "models": {"slow": {"limit_req_per_min": 60}}}
    worker = start_worker(config(key, providers=("p", "q")))
    mixed, plain = play(worker), play(worker, provider="q")
    for _ in range(7):
        make_batch(database, [chat(n, model="slow" if n % 20 < 10 else "fast") for n in range(200)])
    make_batch(database, chats(900, lane="q", model="fast"))
    meanwhile: list[int] = []

    async def work() -> None:
        drains = [asyncio.ensure_future(worker.runners[name].drain(60)) for name in ("p", "q")]
        # where this machine stands still in between, it is seen in the next 200 calls
        while len(meanwhile) < 3 and not (meanwhile and meanwhile[-1] < 200 * 50 / 49 * 1.15):
            fast, other = models(mixed.sent)["fast"], len(plain.sent)
            await until(lambda: models(mixed.sent)["fast"] >= fast + 200, 60)  # noqa: B023 - it is over within this turn
            meanwhile.append(len(plain.sent) - other)
        for name in ("p", "q"):
            worker.runners[name].stop()
        await asyncio.gather(*drains)

    worker.run(work())
    assert meanwhile[-1] < 200 * 50 / 49 * 1.15, meanwhile  # 50 a second, of them one slow


def test_of_many_limited_models_each_is_served(start_worker: Start, database: Database) -> None:
    """A call a minute of each, so that a slow machine, too, has claimed of all before the first may start another."""
    names = [f"m{n}" for n in range(30)]
    worker = start_worker(config({"models": {name: {"limit_req_per_min": 1} for name in names}}))
    played = play(worker)
    make_batch(database, [chat(n, model=names[n * 30 // 900]) for n in range(900)])  # one model after the other
    began = time.monotonic()
    drain_until(worker, lambda: len(models(played.sent)) == 30)
    assert max(models(played.sent).values()) <= (time.monotonic() - began) / 60 + 2


def test_one_model_that_waits_sends_no_job_of_a_route_to_a_worse_provider(
    start_worker: Start, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of the slow model wait at all times; the route's model has no limit."""
    monkeypatch.setattr(standings, "GOOD_MILLISECONDS", 60_000)  # who stands still is not yet gone
    slow_and_fast = config({"models": {"slow": {"limit_req_per_min": 6}}}, providers=("p", "q"), concurrency=2000)
    route = RouteConfig.model_validate({"candidates": ["p/fast", "q/any"], "strategy": "priority"})
    worker = start_worker(slow_and_fast.model_copy(update={"routes": {"r": route}}))
    better, worse = play(worker), play(worker, provider="q")
    make_batch(database, [chat(n, model="slow") for n in range(500)])

    async def work() -> None:
        drains = [asyncio.ensure_future(worker.runners["p"].drain(60))]
        await until(lambda: ("p", "slow") in worker.runners["p"]._waiting.slow)
        make_batch(database, [chat(n, lane="r", model="") for n in range(1000)])
        drains.append(asyncio.ensure_future(worker.runners["q"].drain(60)))
        await until(lambda: models(better.sent)["fast"] + len(worse.sent) >= 1000, 60)
        for name in ("p", "q"):
            worker.runners[name].stop()
        await asyncio.gather(*drains)

    worker.run(work())
    assert models(better.sent)["slow"] >= 1
    assert len(worse.sent) == 0


# Absurd requests


@pytest.mark.parametrize("most", [10**19, 2**64 + 5, 10**400], ids=["big", "bigger", "huge"])
def test_an_absurd_max_tokens_fails_alone(start_worker: Start, database: Database, most: int) -> None:
    worker = start_worker(config({"limit_req_per_min": 60_000, "limit_tokens_per_min": 10**9}))
    played = play(worker)
    batch = make_batch(database, [chat(0, max_tokens=most), *(chat(n) for n in range(1, 10))])
    worker.drain("p")
    assert statuses(database, batch) == ["failed"] + ["succeeded"] * 9
    assert job_rows(database, batch)[0]["error_code"] == "too_large"
    assert "0" not in played.prompts


@pytest.mark.parametrize("most", [10**19, 2**64 + 5, -5, "many"])
def test_without_a_token_limit_the_provider_judges_an_absurd_max_tokens(
    start_worker: Start, database: Database, most: Any
) -> None:
    worker = start_worker()
    played = play(worker)
    batch = make_batch(database, [chat(0, max_tokens=most), chat(1)])
    worker.drain("p")
    assert statuses(database, batch) == ["succeeded"] * 2
    assert sorted(played.prompts) == ["0", "1"]


# After crashes


def test_calls_whose_worker_died_under_them_are_no_failures_of_their_job(
    start_worker: Start, database: Database
) -> None:
    """Five real failures end a job; it has had nine deaths of workers, and its provider's first failure."""
    batch = make_batch(database, [chat(0)])
    for _ in range(9):
        dead = make_worker(database)
        announce(database, *claim(database, dead, provider="p"))
        with database.write() as connection:
            job_store.rescue(connection, [dead])
            connection.execute(jobs.update().values(rescues=0))
    worker = start_worker()

    async def fails(_: Sent) -> Response:
        return refusal(FailureKind.SERVER, 500)

    played = play(worker, fails)
    drain_until(worker, lambda: played.sent and not worker.runners["p"].held)
    (row,) = job_rows(database, batch)
    assert row["status"] == "queued"
    assert row["attempts"] >= 10
