"""Limits by day in workers: exactly so many calls leave, the rest waits where people see it, and others go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from models.config import RouteConfig
from models.database import Database
from models.days import day_at, used_up
from models.store import cooldowns
from models.store.cooldowns import Cooldown
from models.tables import attempts
from tests.making import job_rows, make_batch, noon_zone, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import chat, chats, config, play
from worker.runner import Runner

DATABASES = ["sqlite"]

Start = Callable[..., Bench]
ZONE = noon_zone()


def stored(database: Database) -> list[Cooldown]:
    with database.read() as connection:
        return cooldowns.everything(connection)


def limited(**fields: Any) -> dict[str, Any]:
    return {"day_resets": ZONE, **fields}


def drain_until(worker: Bench, done: Callable[[], Any], seconds: float = 60.0) -> None:
    """Has all providers drained, as tickets do, until something holds; then waits for the calls under way."""
    runners = list(worker.runners.values())

    async def work() -> None:
        over = asyncio.Event()

        async def tickets(runner: Runner) -> None:
            while not over.is_set():
                await runner.drain(600)
                await asyncio.sleep(0.02)

        draining = [asyncio.ensure_future(tickets(runner)) for runner in runners]
        await until(done, seconds)
        over.set()
        for runner in runners:
            runner.stop()
        await asyncio.gather(*draining)
        await until(lambda: not any(runner.in_flight or runner.held for runner in runners))

    worker.run(work())


def test_exactly_the_days_limit_leaves_and_the_rest_waits(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(limit_req_per_day=10, use=0.5)))
    played = play(worker)
    batch = make_batch(database, chats(40))
    drain_until(worker, lambda: stored(database) and len(played.sent) >= 5)
    assert len(played.sent) == 5
    assert Counter(statuses(database, batch)) == {"succeeded": 5, "queued": 35}
    (one,) = stored(database)
    assert (one.model, one.configured, one.reason) == ("", True, used_up("requests", 5, ZONE))
    assert one.until == pytest.approx(day_at(ZONE, worker.recorder.now()).end, abs=1)
    assert not any(row["not_before"] for row in job_rows(database, batch)), "the limiter holds them"


def test_workers_together_keep_it_and_so_does_a_redis_that_lost_everything(
    start_worker: Start, database: Database, emptied_valkey_url: str
) -> None:
    settings = config(limited(limit_req_per_day=20))
    one, other = start_worker(settings), start_worker(settings)
    sent = [play(one).sent, play(other).sent]
    make_batch(database, chats(12))
    drain_until(one, lambda: len(sent[0]) == 12)
    with contextlib.closing(redis.Redis.from_url(emptied_valkey_url)) as client:
        client.flushall()
    make_batch(database, chats(40))
    drain_until(other, lambda: len(sent[1]) >= 8 and stored(database))
    assert [len(calls) for calls in sent] == [12, 8]


def test_a_limit_of_one_model_leaves_the_others_alone(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(models={"big": {"limit_req_per_day": 3}})))
    played = play(worker)
    batch = make_batch(database, [chat(n, model="big" if n < 200 else "small") for n in range(260)])
    drain_until(worker, lambda: statuses(database, batch)[200:] == ["succeeded"] * 60)
    assert Counter(call.model for call in played.sent) == {"big": 3, "small": 60}
    assert [(row.model, row.configured) for row in stored(database)] == [("big", True)]


def test_another_key_takes_what_the_first_has_no_room_for(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(limit_req_per_day=3), {}))
    played = play(worker)
    batch = make_batch(database, chats(30))
    drain_until(worker, lambda: statuses(database, batch) == ["succeeded"] * 30)
    assert Counter(call.secret for call in played.sent)["secret-0"] <= 3


def test_the_next_candidate_of_a_route_goes_on(start_worker: Start, database: Database) -> None:
    made = config(limited(limit_req_per_day=3), providers=("p", "q"))
    free = made.providers[1].model_copy(
        update={"keys": tuple(key.model_copy(update={"limit_req_per_day": None}) for key in made.providers[1].keys)}
    )
    settings = made.model_copy(
        update={"providers": (made.providers[0], free), "routes": {"r": RouteConfig(candidates=("p/m", "q/m"))}}
    )
    worker = start_worker(settings)
    first, second = play(worker), play(worker, provider="q")
    batch = make_batch(database, chats(30, lane="r"))
    drain_until(worker, lambda: statuses(database, batch) == ["succeeded"] * 30)
    assert len(first.sent) == 3
    assert len(second.sent) == 27


def test_smaller_calls_use_what_is_left_of_a_days_tokens(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(limit_tokens_per_day=1_000)))
    played = play(worker)
    batch = make_batch(
        database, [chat(0, max_tokens=900), chat(1, max_tokens=900), *(chat(n, max_tokens=20) for n in range(2, 5))]
    )
    drain_until(worker, lambda: len(played.sent) >= 4 and stored(database))
    assert Counter(statuses(database, batch)) == {"succeeded": 4, "queued": 1}
    (one,) = stored(database)
    assert one.reason == used_up("tokens", 1_000, ZONE)


def test_a_job_bigger_than_a_whole_day_fails(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(limit_tokens_per_day=1_000)))
    play(worker)
    batch = make_batch(database, [chat(0, max_tokens=5_000)])
    worker.drain("p")
    (row,) = job_rows(database, batch)
    assert (row["status"], row["error_code"]) == ("failed", "too_large")
    assert "more than a whole day's limit (1000) of any key" in row["error_message"]


def test_a_raised_limit_lets_the_rest_go_on_the_same_day(start_worker: Start, database: Database) -> None:
    made = config(limited(limit_req_per_day=4))
    (provider,) = made.providers
    (key,) = provider.keys
    worker = start_worker(made)
    before = play(worker)
    batch = make_batch(database, chats(10))
    drain_until(worker, lambda: len(before.sent) >= 4 and stored(database))
    raised = provider.model_copy(update={"keys": (key.model_copy(update={"limit_req_per_day": 9}),)})
    other = start_worker(made.model_copy(update={"providers": (raised,)}))
    played = play(other)
    drain_until(other, lambda: len(played.sent) == 5 and stored(database)[0].reason == used_up("requests", 9, ZONE))
    assert Counter(statuses(database, batch)) == {"succeeded": 9, "queued": 1}


def test_a_person_does_not_lift_a_configured_limit(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(limit_req_per_day=2)))
    played = play(worker)
    make_batch(database, chats(10))

    async def story() -> None:
        drain = asyncio.ensure_future(worker.runners["p"].drain(600))
        await until(lambda: len(played.sent) >= 2 and stored(database))
        with database.write() as connection:
            assert cooldowns.lift(connection, stored(database)[0].pool, worker.recorder.now()) == []
        await worker.runners["p"].engine.refresh()
        await worker.runners["p"].drain(1)
        worker.runners["p"].stop()
        await drain

    worker.run(story())
    assert len(played.sent) == 2
    assert [one.lifted for one in stored(database)] == [None]


def test_the_rest_goes_on_by_itself_after_midnight(start_worker: Start, database: Database) -> None:
    worker = start_worker(config(limited(limit_req_per_day=4)))
    played = play(worker)
    batch = make_batch(database, chats(10))
    begun: list[float] = []

    def next_day() -> bool:
        """Sets the database's clock to just behind midnight, once the day is used up; twice."""
        recorder = worker.recorder
        if len(begun) < 2 and len(played.sent) == 4 * len(begun) + 4 and len(stored(database)) == 1:
            begun.append(recorder.now())
            recorder.set_clock(recorder.clock_offset + day_at(ZONE, recorder.now()).end + 3 - recorder.now())
        return statuses(database, batch) == ["succeeded"] * 10

    drain_until(worker, next_day)
    with database.read() as connection:
        days = Counter(day_at(ZONE, at).start for at in connection.execute(sa.select(attempts.c.started_at)).scalars())
    assert sorted(days.values()) == [2, 4, 4]


def test_a_worker_that_started_later_sets_the_limit_for_the_older_one(start_worker: Start, database: Database) -> None:
    made = config(limited(models={"m": {"limit_req_per_day": 3}}))
    (provider,) = made.providers
    free = provider.model_copy(update={"keys": tuple(key.model_copy(update={"models": {}}) for key in provider.keys)})
    old = start_worker(made.model_copy(update={"providers": (free,)}))
    new = start_worker(made)
    old.run(old.ruling.refresh())
    assert old.keys("p").usable("m") == new.keys("p").usable("m")
    assert old.keys("p").by_model
    sent = play(old).sent
    make_batch(database, chats(10))
    drain_until(old, lambda: len(sent) >= 3 and stored(database))
    assert len(sent) == 3
