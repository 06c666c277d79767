"""Where workers run with different configurations the limits of the one that started last hold for all."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from sqlalchemy.engine import Connection

from models.config import Config
from models.config_file import load_config_text
from models.states import Outcome
from models.tables import attempts
from tests.worker.bench import Bench
from worker.limits.limiter import Charge, Grant, Wait, Want
from worker.ruling import Ruling, Word

DATABASES = ["sqlite"]

Start = Callable[..., Bench]


def config(model_limit: int | None = None, **limits: Any) -> Config:
    models = "{}" if model_limit is None else f"{{m: {{limit_req_per_min: {model_limit}}}}}"
    said = ", ".join(f"{name}: {value}" for name, value in limits.items())
    return load_config_text(
        f"providers: [{{id: p, type: openai, models: {models}, keys: [{{id: k, secret: s{', ' if said else ''}{said}}}]}}]",
        secrets=True,
        environ={},
    )


def limits(worker: Bench, model: str = "m") -> dict[str, int]:
    (key,) = worker.keys("p").usable(model)
    return {bucket.id: bucket.limit for bucket in key.buckets}


def refresh(*workers: Bench) -> None:
    for worker in workers:
        worker.run(worker.ruling.refresh())


def test_the_limits_of_the_worker_that_started_last_hold_for_the_older_ones(
    start_worker: Start, caplog: pytest.LogCaptureFixture
) -> None:
    old = start_worker(config(limit_req_per_min=600))
    assert limits(old) == {"p/k|requests": 600}
    new = start_worker(config(limit_req_per_min=60, limit_tokens_per_min=1000, use=0.5, model_limit=10))
    with caplog.at_level(logging.WARNING, "truckllm.ruling"):
        refresh(old, new)
        refresh(old, new)
    assert limits(old) == limits(new) == {"p/k|requests": 30, "p/k|tokens": 500, "p/k|m|requests": 5}
    assert limits(old, "another") == {"p/k|requests": 30, "p/k|tokens": 500}
    assert old.keys("p").by_model
    assert caplog.text.count(f"worker {new.lease.worker_id} started later with other limits") == 1


def test_a_limit_that_the_last_one_has_not_is_gone_for_all(start_worker: Start) -> None:
    old = start_worker(config(limit_req_per_min=600, model_limit=10))
    new = start_worker(config())
    refresh(old)
    assert limits(old) == limits(new) == {}
    assert not new.keys("p").by_model


def test_with_the_same_limits_nothing_is_said(start_worker: Start, caplog: pytest.LogCaptureFixture) -> None:
    workers = [start_worker(config(limit_req_per_min=600)) for _ in range(2)]
    with caplog.at_level(logging.WARNING, "truckllm.ruling"):
        refresh(*workers)
    assert [limits(worker) for worker in workers] == [{"p/k|requests": 600}] * 2
    assert not caplog.text


def test_the_word_survives_a_redis_that_forgot_it(start_worker: Start, valkey_url: str) -> None:
    old = start_worker(config(limit_req_per_min=600))
    new = start_worker(config(limit_req_per_min=60))
    refresh(old)
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.flushall()
    refresh(old, new, old)
    assert limits(old) == {"p/k|requests": 60}


def forget(valkey_url: str) -> None:
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.flushall()


def test_an_older_worker_never_goes_back_to_its_own_limits_when_redis_forgets(
    start_worker: Start, valkey_url: str
) -> None:
    old = start_worker(config(limit_req_per_min=600))
    start_worker(config(limit_req_per_min=60))
    refresh(old)
    forget(valkey_url)
    for _ in range(2):
        refresh(old)  # the newer one has nothing to say yet
        assert limits(old) == {"p/k|requests": 60}


def test_what_redis_forgot_and_an_older_worker_tells_does_not_rule_one_that_started_later(
    start_worker: Start, valkey_url: str
) -> None:
    word = msgspec.msgpack.encode(Word(500, {"requests": 5}, {}))
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.hset("{truckllm}:limits-of", "p/k", word)
    old = start_worker(config(limit_req_per_min=600))
    middle = start_worker(config(limit_req_per_min=60))
    refresh(old)
    forget(valkey_url)
    new = start_worker(config(limit_req_per_min=300))  # before the others speak
    refresh(old, middle, new, old, middle)
    assert limits(old) == limits(middle) == limits(new) == {"p/k|requests": 300}


def ask(worker: Bench, name: str, tokens: int = 0) -> Any:
    (answer,) = worker.run(worker.limiter.reserve([Want(name, Charge(1, tokens, tokens, tokens), worker.keys("p").usable("m"))]))  # fmt: skip
    return answer


def test_from_the_moment_that_a_new_worker_rules_no_older_one_is_granted_more_than_its_limits(
    start_worker: Start,
) -> None:
    old = start_worker(config(limit_req_per_min=6000))
    for number in range(5):
        until_granted(old, f"a{number}")
    new = start_worker(config(limit_req_per_min=6))
    answers = [ask(worker, f"b{number}") for number in range(10) for worker in (old, new)]
    assert sum(isinstance(answer, Grant) for answer in answers) <= 1  # five of the six of this minute were before
    assert limits(old) == {"p/k|requests": 6}


def test_a_worker_that_could_not_say_its_limits_yet_is_granted_nothing_until_it_has(
    start_worker: Start, valkey_url: str
) -> None:
    worker = start_worker(config(limit_req_per_min=600))
    ring, words = worker.keys("p"), "{truckllm}:limits-of"
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.delete(words, "{truckllm}:limits-mark")
        ring.rule({}, "")  # all as if Redis had been away while it started
        worker._process._ruling = Ruling(worker.ruling._client, worker.config.providers, [ring], lambda: 1)
        assert isinstance(ask(worker, "a"), Wait)
        assert client.hexists(words, "p/k")
    until_granted(worker, "b")


def test_a_worker_that_starts_with_the_same_limits_has_no_older_one_wait(start_worker: Start, valkey_url: str) -> None:
    same = config(limit_req_per_min=600, model_limit=60)
    old = start_worker(same)
    start_worker(same)
    with contextlib.closing(redis.Redis.from_url(valkey_url, decode_responses=True)) as client:
        assert client.get("{truckllm}:limits-mark") == old.keys("p").usable("m")[0].rules
    until_granted(old, "a")


def test_a_limit_that_is_raised_is_the_older_ones_too_at_their_next_question(start_worker: Start) -> None:
    old = start_worker(config(limit_req_per_min=1))
    until_granted(old, "a")
    start_worker(config(limit_req_per_min=6000))
    assert isinstance(ask(old, "b"), Wait)
    until_granted(old, "c")


def test_an_older_worker_begins_an_empty_redis_with_all_that_the_ruling_limits_count(
    start_worker: Start, valkey_url: str
) -> None:
    old = start_worker(config(limit_req_per_min=600))
    new = start_worker(config(limit_req_per_min=600, limit_tokens_per_min=1000, model_limit=20))
    refresh(old)
    announce(new, tokens=900)
    forget(valkey_url)
    until_asked_of_the_ledger(old)
    (room,) = old.run(old.limiter.room(old.keys("p").usable("m")))
    assert {one.bucket.id: one.booked for one in room.buckets} == {
        "p/k|requests": 1,
        "p/k|tokens": 900,
        "p/k|m|requests": 1,
    }


def test_a_limit_that_comes_back_counts_the_minute_in_which_it_was_not_there(start_worker: Start) -> None:
    limited = config(limit_req_per_min=600, limit_tokens_per_min=1000)
    first = start_worker(limited)
    until_granted(first, "a", tokens=10)
    announce(start_worker(config(limit_req_per_min=600)), tokens=900)
    worker = start_worker(limited)
    until_granted(worker, "c", tokens=10)
    assert booked(worker) == {"p/k|requests": 2, "p/k|tokens": 910}


def keys(pool: str) -> Config:
    text = "providers: [{id: p, type: openai, keys: [{id: k, secret: s, %s}, {id: l, secret: t, pool: acme, limit_tokens_per_min: 1000}]}]"
    return load_config_text(text % pool, secrets=True, environ={})


def test_an_older_worker_counts_the_last_minute_of_a_key_that_only_a_younger_one_has_in_the_pool(
    start_worker: Start, valkey_url: str
) -> None:
    old = start_worker(keys("limit_req_per_min: 600"))
    announce(start_worker(keys("pool: acme, limit_tokens_per_min: 1000")), tokens=900)
    refresh(old)
    forget(valkey_url)
    until_granted(old, "a", tokens=10)
    assert booked(old)["pool:acme|tokens"] >= 900


def test_the_lower_limit_of_a_model_holds_from_the_next_question(start_worker: Start) -> None:
    old = start_worker(config(limit_req_per_min=6000, model_limit=6000))
    until_granted(old, "a")
    start_worker(config(limit_req_per_min=6000, model_limit=6))
    assert isinstance(ask(old, "b"), Wait)
    assert limits(old)["p/k|m|requests"] == 6


def test_a_limit_that_is_added_holds_from_the_next_question(start_worker: Start) -> None:
    old = start_worker(config(limit_req_per_min=6000))
    until_granted(old, "a")
    start_worker(config(limit_req_per_min=6000, limit_tokens_per_min=10))
    assert isinstance(ask(old, "b"), Wait)
    assert limits(old) == {"p/k|requests": 6000, "p/k|tokens": 10}


def test_a_key_that_joins_a_pool_brings_its_last_minute(start_worker: Start) -> None:
    apart = start_worker(keys("limit_req_per_min: 600"))
    until_granted(apart, "a", tokens=10)
    announce(apart, tokens=900)
    worker = start_worker(keys("pool: acme, limit_tokens_per_min: 1000"))
    until_granted(worker, "b", tokens=10)
    assert booked(worker) == {"pool:acme|tokens": 910}


@pytest.mark.parametrize(
    ("later", "waits"),
    [
        ({"limit_req_per_min": 60}, False),
        ({}, False),
        ({"limit_req_per_min": 600, "limit_tokens_per_min": 10}, True),
        ({"limit_req_per_min": 600, "model_limit": 10}, True),
        ({"limit_req_per_min": 600, "pool": "acme"}, True),
        ({"limit_req_per_min": 600}, False),
    ],
    ids=["lower", "gone", "another unit", "of a model", "another pool", "the same"],
)
def test_only_a_limit_that_did_not_count_before_waits_for_what_was_granted_without_it(
    start_worker: Start, valkey_url: str, monkeypatch: pytest.MonkeyPatch, later: dict[str, Any], waits: bool
) -> None:
    monkeypatch.setattr("worker.ruling.SETTLING_SECONDS", 60.0)
    start_worker(config(limit_req_per_min=600))
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        assert not client.exists("{truckllm}:limits-changed"), "the first to speak"
        start_worker(config(**later))
        assert client.exists("{truckllm}:limits-changed") == waits


def until_granted(worker: Bench, name: str, tokens: int = 0) -> None:
    deadline = time.monotonic() + 30
    while not isinstance(ask(worker, name, tokens), Grant):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def booked(worker: Bench) -> dict[str, int]:
    rooms = worker.run(worker.limiter.room(worker.keys("p").usable("m")))
    return {one.bucket.id: one.booked for room in rooms for one in room.buckets}


def test_pools_that_no_worker_has_any_more_leave_redis(start_worker: Start, valkey_url: str) -> None:
    worker = start_worker(config(limit_req_per_min=600))
    week = 7 * 86_400
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        word = msgspec.msgpack.encode(Word(900, {"requests": 5}, {}))
        for pool, days in (("p/gone", 8), ("p/away", 6), ("p/k", 300)):
            if pool != "p/k":
                client.hset("{truckllm}:limits-of", pool, word)
            client.hset("{truckllm}:limits-seen", pool, int(time.time()) - days * 86_400)
        mark = client.get("{truckllm}:limits-mark")
        refresh(worker)
        assert client.hkeys("{truckllm}:limits-of") == [b"p/k", b"p/away"]
        assert client.get("{truckllm}:limits-mark") == mark
        client.hset("{truckllm}:limits-of", "p/new", word)
        refresh(worker)
        assert client.hexists("{truckllm}:limits-of", "p/new"), "one of which it isn't known since when"
        assert int(client.hget("{truckllm}:limits-seen", "p/new")) > time.time() - week
        for name in ("of", "mark", "seen"):
            assert client.ttl("{truckllm}:limits-" + name) > week


def until_asked_of_the_ledger(worker: Bench) -> None:
    """Asks for what never fits, until it is known what the last minute held."""
    deadline = time.monotonic() + 30
    while not any(one.booked for one in worker.run(worker.limiter.room(worker.keys("p").usable("m")))[0].buckets):
        ask(worker, "big", tokens=999)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def announce(worker: Bench, tokens: int) -> None:
    """A call of now, as the ledger has it."""

    def write(connection: Connection) -> None:
        connection.execute(
            attempts.insert().values(
                id=1, job_id=1, batch_id=1, epoch=1, provider="p", key_id="k", requested_model="m",
                outcome=Outcome.UNKNOWN, booked_tokens=tokens, started_at=worker.recorder.now(),
            )
        )  # fmt: skip

    worker.run(worker.recorder.call(write))


def test_what_a_worker_of_a_database_that_is_gone_has_said_rules_nobody_for_ever(
    start_worker: Start, valkey_url: str
) -> None:
    word = msgspec.msgpack.encode(Word(500, {"requests": 60}, {}))
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.hset("{truckllm}:limits-of", "p/k", word)
    first = start_worker(config(limit_req_per_min=600))
    second = start_worker(config(limit_req_per_min=300))
    refresh(first, second, first)
    assert limits(first) == limits(second) == {"p/k|requests": 300}
