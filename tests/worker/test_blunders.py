"""A mistake of ours on the way to a call is one row's, or nobody's: what was claimed beside it is neither held for ever nor sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from models.database import Database
from tests.making import assert_counts_are_true, job_rows, make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import chat, chats, play
from worker import routing
from worker.flights import Flight

DATABASES = ["sqlite"]


def test_a_row_that_cannot_be_prepared_fails_alone_and_without_a_call(
    start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = chats(6)
    rows[2] = chat(2, model="odd")
    batch = make_batch(database, rows)
    worker = start_worker()
    played = play(worker)
    model_for = routing.model_for

    def mistaken(config: Any, lane: str, provider: str, asked: str) -> str:
        if asked == "odd":
            raise KeyError(asked)
        return model_for(config, lane, provider, asked)

    monkeypatch.setattr(routing, "model_for", mistaken)
    worker.drain("p")
    assert statuses(database, batch) == ["succeeded", "succeeded", "failed", "succeeded", "succeeded", "succeeded"]
    assert sorted(played.prompts) == ["0", "1", "3", "4", "5"]
    odd = job_rows(database, batch)[2]
    assert (odd["error_code"], odd["attempts"]) == ("internal_error", 0)
    assert "KeyError" in odd["error_message"]
    assert_counts_are_true(database, batch)


@pytest.mark.parametrize("late", [False, True], ids=["before it is written down", "after it"])
def test_calls_that_a_mistake_kept_from_leaving_are_made_later_and_once(
    start_worker: Callable[..., Bench], database: Database, late: bool
) -> None:
    batch = make_batch(database, chats(5))
    worker = start_worker()
    played = play(worker)
    runner = worker.runners["p"]
    flights = runner._flights
    name = "_launch" if late else "_goes"
    right = getattr(flights, name)
    met: list[Flight] = []

    def mistaken(flight: Flight) -> Any:
        met.append(flight)
        if len(met) == 3:
            raise KeyError("a mistake")
        return right(flight)

    setattr(flights, name, mistaken)

    async def story() -> None:
        draining = asyncio.ensure_future(runner.drain(60))
        await until(lambda: statuses(database, batch) == ["succeeded"] * 5)
        runner.stop()
        await draining
        await until(lambda: not runner.in_flight and not runner.held)

    worker.run(story())
    assert len(met) > 5
    assert sorted(played.prompts) == ["0", "1", "2", "3", "4"]
    assert_counts_are_true(database, batch)
