"""A plugin that counts wrongly what its calls take gives no quota back that others have booked, and loses no reply that is paid for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from models.database import Database
from models.request import Request, Usage
from tests.making import attempt_rows, make_batch, statuses
from tests.worker.bench import Bench
from tests.worker.scripted import Scripted, chats, config, play
from worker.limits.shapes import Charge
from worker.pools import limited_key

DATABASES = ["sqlite"]


class Odd(Scripted):
    """Its charges are below zero, or no whole numbers."""

    charges: Iterator[Any] = itertools.cycle([-500, 7.5, "7", True])

    def charge(self, request: Request, input_tokens: int, output_tokens: int) -> Charge:
        return Charge(tokens=next(self.charges))

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        return Charge(requests=-60, tokens=-500)


class Raises(Scripted):
    """It can't tell what a call took."""

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Odd, Raises])
def test_a_plugin_that_counts_wrongly_takes_from_nobody_and_loses_nothing(
    start_worker: Callable[..., Bench], database: Database, kind: type[Scripted]
) -> None:
    worker = start_worker(config({"limit_tokens_per_min": 100_000}))
    batch = make_batch(database, chats(4))
    play(worker, kind=kind)
    worker.drain("p")
    worker.run(worker.runners["p"]._flights._tally.flush())
    settings = worker.config.provider("p")
    (room,) = worker.run(worker.limiter.room([limited_key(settings, settings.keys[0], "m")]))
    assert statuses(database, batch) == ["succeeded"] * 4
    assert [row["input_tokens"] for row in attempt_rows(database, batch)] == [5] * 4
    assert all(bucket.booked >= 0 for bucket in room.buckets)
