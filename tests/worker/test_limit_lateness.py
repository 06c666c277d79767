"""A call that its worker starts late counts in the minute that it starts in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import redis

from models.database import Database
from tests.making import make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import chat, config, play
from worker.limits.limiter import Grant, Want

DATABASES = ["sqlite"]

LATE = 0.7
"""Seconds: another slot, and not too late to start."""


def test_a_worker_that_was_stopped_books_its_calls_where_they_start(
    start_worker: Callable[..., Bench], database: Database, valkey_url: str
) -> None:
    worker = start_worker(config({"limit_req_per_min": 6000}))
    played = play(worker)
    reserve, granted = worker.limiter.reserve, []

    async def stopped(wants: Sequence[Want], *report: Any) -> list[Any]:
        """As if the worker had stood still since it was granted a call."""
        answers = await reserve(wants, *report)
        late = [replace(one, start_at=one.start_at - LATE) if isinstance(one, Grant) else one for one in answers]
        granted.extend(one for one in late if isinstance(one, Grant))
        return late

    worker.limiter.reserve = stopped  # type: ignore[method-assign]
    batch = make_batch(database, [chat(0)])
    worker.drain("p")
    assert statuses(database, batch) == ["succeeded"]
    assert len(played.sent) == 1
    grant = granted[-1]  # on a machine that really stood still some may have been too late to go
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:

        def booked() -> dict[int, int]:
            found = client.hgetall("{truckllm}:b:" + grant.key.buckets[0].id)
            return {int(slot): int(amount) for slot, amount in found.items() if slot.isdigit() and int(amount)}

        worker.run(until(lambda: set(booked()) - {one.slot for one in granted}))
        assert sum(booked().values()) == 1
        assert min(booked()) > grant.slot
