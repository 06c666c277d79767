"""Learned limits in a worker: stored, put back, followed when they are reset, forgotten with their configuration."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from models.config import Config
from models.database import Database
from models.learning import fingerprints
from models.store import learned as learned_store
from models.store.learned import RESET_SECONDS, Learned
from tests.making import make_batch
from tests.worker.bench import Bench
from tests.worker.scripted import ANSWER, Sent, chat, config, play
from tests.worker.test_cooldowns import limited
from worker.learned import STORE_SECONDS, USED_SECONDS, LearnedLimits
from worker.limits.learned import Ceiling, exchange

DATABASES = ["sqlite"]

Start = Callable[..., Bench]


def learning(*keys: dict[str, Any]) -> Config:
    return config(*({"limits": "learn", "limit_req_per_min": 600, **key} for key in keys or ({},)))


class Carrier:
    """A worker's learned limits with a clock that the test sets."""

    def __init__(self, worker: Bench, settings: Config | None = None) -> None:
        self.worker, self.time = worker, 1000.0
        self.config = settings or worker.config
        self.client = worker.limiter._client
        self.part = LearnedLimits(self.config, self.client, worker.recorder, lambda: self.time)
        self.pool = next(iter(fingerprints(self.config.providers)))

    def take_over(self) -> None:
        self.worker.run(self.part.take_over())

    def refresh(self, seconds: float = 5.0) -> None:
        self.time += seconds
        self.worker.run(self.part.refresh())

    def set(self, requests: float, model: str = "m") -> None:
        """What the law finds."""
        seed = Ceiling(self.pool, model, requests, 0.0, 0.0)
        self.worker.run(exchange(self.client, [self.pool], forget=[(self.pool, model)]))
        self.worker.run(exchange(self.client, [self.pool], seeds=[seed]))

    def standing(self) -> dict[str, int]:
        found = self.worker.run(exchange(self.client, [self.pool]))
        return {one.model: round(one.requests_per_min) for one in found}


@pytest.fixture
def carrier(start_worker: Start) -> Carrier:
    return Carrier(start_worker(learning()))


def stored(database: Database) -> dict[str, int]:
    with database.read() as connection:
        found = learned_store.everything(connection, database.now(connection))
    return {one.model: round(one.requests_per_min or 0) for one in found}


def reset(database: Database, pool: str, model: str = "") -> list[Learned]:
    with database.write() as connection:
        return learned_store.reset(connection, [pool], model, database.now(connection))


def age(database: Database, seconds: float) -> None:
    """Makes all that is stored older."""
    table = learned_store.learned_limits
    with database.write() as connection:
        connection.execute(
            table.update().values(updated_at=table.c.updated_at - seconds, reset_at=table.c.reset_at - seconds)
        )


def test_what_is_found_is_stored_at_once_and_then_at_most_once_a_minute(carrier: Carrier, database: Database) -> None:
    carrier.refresh()
    carrier.set(300)
    carrier.refresh()
    assert stored(database) == {"m": 300}
    carrier.set(200)
    carrier.refresh(STORE_SECONDS - 10)
    assert stored(database) == {"m": 300}
    carrier.refresh(11)
    assert stored(database) == {"m": 200}


def test_a_small_change_and_one_that_another_worker_has_stored_are_not_written(
    carrier: Carrier, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Carrier(carrier.worker)
    other.take_over()
    carrier.set(300)
    carrier.refresh()
    written: list[Any] = []
    keep = learned_store.keep
    monkeypatch.setattr(learned_store, "keep", lambda *args: written.extend(kept := keep(*args)) or kept)
    other.refresh()
    carrier.set(290)
    carrier.refresh(STORE_SECONDS)
    other.refresh(STORE_SECONDS)
    assert written == []
    carrier.set(250)
    other.refresh(STORE_SECONDS)
    assert [one.requests_per_min for one in written] == [pytest.approx(250)]


def test_where_nothing_learns_redis_and_sql_are_left_alone(start_worker: Start, database: Database) -> None:
    carrier = Carrier(start_worker(config({"limit_req_per_min": 600})))
    carrier.refresh()
    carrier.set(300)
    reset(database, "")
    carrier.refresh(STORE_SECONDS)
    carrier.worker.run(carrier.part.store())
    assert (carrier.standing(), stored(database)) == ({"m": 300}, {})


def test_a_redis_that_lost_everything_gets_it_back(carrier: Carrier, database: Database) -> None:
    carrier.set(300)
    carrier.refresh()
    carrier.worker.run(carrier.client.flushall())
    carrier.refresh()
    assert carrier.standing() == {"m": 300}


@pytest.mark.parametrize("limits", [(300.0, 0.0, 0.0), (0.0, 20_000.0, 0.0), (0.0, 0.0, 8.0)])
def test_each_kind_of_limit_is_put_back_once(
    carrier: Carrier, database: Database, limits: tuple[float, float, float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mark = fingerprints(carrier.config.providers)[carrier.pool] or ""
    with database.write() as connection:
        learned_store.keep(
            connection,
            [Learned(carrier.pool, "m", *(one or None for one in limits), configured=mark)],
            database.now(connection),
        )
    carrier.take_over()
    for _ in range(3):
        carrier.refresh(STORE_SECONDS)
    assert caplog.text.count("starts with learned limits") <= 1


def test_a_worker_that_starts_puts_it_in_place_before_its_first_call(start_worker: Start, database: Database) -> None:
    first = start_worker(learning())
    carrier = Carrier(first)
    carrier.set(120)
    carrier.refresh()
    first.run(carrier.client.flushall())
    second = start_worker(first.config)
    assert carrier.standing() == {"m": 120}
    (key,) = second.keys("p").usable("m")
    assert key.pool == carrier.pool


def test_the_end_of_a_worker_stores_what_the_last_minute_has_changed(
    carrier: Carrier, start_worker: Start, database: Database
) -> None:
    carrier.set(300)
    carrier.refresh()
    carrier.set(150)
    carrier.worker.run(carrier.part.store())
    assert stored(database) == {"m": 150}
    worker = start_worker(carrier.config)
    carrier.set(75)
    worker.run(worker._process._leave())
    assert stored(database) == {"m": 75}


def test_a_reset_is_followed_by_all_workers_and_nothing_puts_the_old_limits_back(
    carrier: Carrier, database: Database
) -> None:
    other = Carrier(carrier.worker)
    carrier.set(300)
    carrier.set(200, "n")
    carrier.refresh()
    other.take_over()
    assert [one.model for one in reset(database, carrier.pool, "m")] == ["m"]
    carrier.refresh(STORE_SECONDS)
    assert carrier.standing() == {"n": 200}
    other.refresh(STORE_SECONDS)
    assert carrier.standing() == {"n": 200}
    assert stored(database) == {"n": 200}


def test_what_is_learned_after_a_reset_stays_and_is_stored_once_the_reset_is_over(
    carrier: Carrier, database: Database
) -> None:
    carrier.set(300)
    carrier.refresh()
    reset(database, "")
    carrier.refresh(STORE_SECONDS)
    carrier.set(500)
    carrier.refresh(STORE_SECONDS)
    assert (carrier.standing(), stored(database)) == ({"m": 500}, {})
    with database.write() as connection:
        learned_store.sweep(connection, database.now(connection) + RESET_SECONDS + 1)
    carrier.refresh(STORE_SECONDS)
    assert (carrier.standing(), stored(database)) == ({"m": 500}, {"m": 500})


def test_a_reset_while_no_redis_and_no_worker_was_there_holds_for_the_next(
    carrier: Carrier, database: Database
) -> None:
    carrier.set(300)
    carrier.refresh()
    reset(database, carrier.pool)
    age(database, 3600)
    next_one = Carrier(carrier.worker)
    next_one.take_over()
    next_one.refresh()
    assert (carrier.standing(), stored(database)) == ({}, {})


@pytest.mark.parametrize("change", ["limit_req_per_min", "secret", "use"])
def test_another_configuration_of_the_key_forgets_it(carrier: Carrier, database: Database, change: str) -> None:
    carrier.take_over()
    carrier.set(300)
    carrier.refresh()
    provider = carrier.config.providers[0]
    tree = {"limit_req_per_min": 601, "secret": "another", "use": 0.5}
    (other,) = learning({"id": provider.keys[0].id, change: tree[change]}).providers
    settings = carrier.config.model_copy(update={"providers": (other,)})
    assert Carrier(carrier.worker, settings).pool == carrier.pool
    Carrier(carrier.worker, settings).take_over()
    assert (carrier.standing(), stored(database)) == ({}, {})


def test_what_a_key_has_learned_is_forgotten_when_it_is_to_learn_no_more(carrier: Carrier, database: Database) -> None:
    carrier.set(300)  # by a version that left no fingerprint in Redis
    (provider,) = carrier.config.providers
    fixed = provider.model_copy(update={"keys": (provider.keys[0].model_copy(update={"learning": "fixed"}),)})
    Carrier(carrier.worker, carrier.config.model_copy(update={"providers": (fixed,)})).take_over()
    assert carrier.standing() == {}


def test_after_a_week_without_calls_it_is_not_put_back(carrier: Carrier, database: Database) -> None:
    carrier.set(300)
    carrier.refresh()
    carrier.worker.run(carrier.client.flushall())
    age(database, learned_store.KEPT_SECONDS)
    next_one = Carrier(carrier.worker)
    next_one.take_over()
    assert next_one.standing() == {}


def test_a_limit_that_is_used_and_never_changes_is_not_forgotten(carrier: Carrier, database: Database) -> None:
    carrier.set(300)
    carrier.refresh()
    age(database, USED_SECONDS + 1)
    carrier.part._stored = {}
    carrier.refresh(STORE_SECONDS)
    with database.read() as connection:
        (one,) = learned_store.everything(connection, database.now(connection))
        assert one.updated_at > database.now(connection) - 60


def test_a_limit_that_turns_out_to_be_none_is_no_longer_stored(carrier: Carrier, database: Database) -> None:
    carrier.set(300)
    carrier.refresh()
    one = Ceiling(carrier.pool, "m", 0.0, 0.0, 0.0)
    before = carrier.part._stored
    changed = carrier.part._changed([one], before, carrier.worker.recorder.now())
    assert [found.limits for found in changed] == [(None, None, None)]
    assert carrier.part._changed([replace(one, found=False)], before, 0.0) == [], "while it is searched for"
    assert carrier.part._changed([replace(one, model="n")], before, 0.0) == []


def test_what_is_learned_from_refusals_is_stored_and_names_no_secret(
    start_worker: Start, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker = start_worker(learning({"secret": "sk-canary-learned", "limit_req_per_min": 600}))
    make_batch(database, [chat(n) for n in range(200)])
    taken = 0

    async def thirty(_: Sent) -> Any:
        nonlocal taken
        taken += 1
        return ANSWER if taken <= 30 else limited(6.0)  # a whole minute's quota is used up

    play(worker, thirty)

    async def story() -> None:
        draining = asyncio.ensure_future(worker.runners["p"].drain(60))
        while not stored(database):
            await asyncio.sleep(0.2)
            await worker._process._learned.refresh()
        worker.runners["p"].stop()
        await draining

    worker.run(story())
    assert 20 <= stored(database)["m"] <= 40
    assert "sk-canary" not in caplog.text
