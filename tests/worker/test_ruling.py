"""Where workers run with different configurations the limits of the one that started last hold for all."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from models.config import Config
from models.config_file import load_config_text
from tests.worker.bench import Bench
from worker.ruling import Word

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
