"""Which other candidates of a route are free to take a job, by what Redis, keys and cooldowns show."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from models.config import RouteConfig
from models.database import Database
from models.request import Failure, FailureKind, Response
from tests.making import make_batch, statuses
from tests.worker.bench import Bench
from tests.worker.scripted import Sent, chats, config, play, refusal
from worker.candidates import Candidates
from worker.first_token import FIRST_TOKEN_TIMEOUT
from worker.standings import Standing, Standings

DATABASES = ["sqlite"]
PAIRS = [("p", "m"), ("q", "m")]


def test_one_is_busy_whose_breaker_is_open_whose_keys_are_out_or_whose_limits_are_full(
    database: Database, start_worker: Callable[..., Bench]
) -> None:
    worker = start_worker(config(providers=("p", "q")))
    candidates: Candidates = worker.runners["p"].engine._candidates
    breaker, standings = worker.runners["q"]._breaker, worker.runners["q"]._turns._standings
    assert isinstance(standings, Standings)
    assert worker.run(candidates.busy(PAIRS)) == []
    assert worker.run(candidates.busy([])) == []
    worker.run(standings.tell("q", Standing(False)))
    assert worker.run(candidates.busy(PAIRS)) == []
    assert worker.run(candidates.busy(PAIRS, room=True)) == ["q"]
    worker.run(breaker.record("q", 0, 20))
    assert worker.run(candidates.busy(PAIRS)) == ["q"]
    assert candidates.shut("q")
    assert not candidates.shut("p")


def test_one_is_busy_whose_account_has_no_money(database: Database, start_worker: Callable[..., Bench]) -> None:
    async def script(_: Sent) -> object:
        return refusal(FailureKind.QUOTA, 402)

    worker = start_worker(config(providers=("p", "q")))
    play(worker, script, "q")  # type: ignore[arg-type]
    make_batch(database, chats(1, lane="q"))
    worker.drain("q")
    assert worker.run(worker.runners["p"].engine._candidates.busy(PAIRS)) == ["q"]


@pytest.mark.parametrize(("code", "bad"), [(FIRST_TOKEN_TIMEOUT, 0), ("stream_silent", 6)])
def test_a_call_that_was_left_for_a_faster_candidate_is_no_failure_of_its_provider(
    database: Database, start_worker: Callable[..., Bench], code: str, bad: int
) -> None:
    async def script(_: Sent) -> Response:
        return Response(b"", 0, failure=Failure(FailureKind.NETWORK, code, "no first token"))

    route = RouteConfig.model_validate({"candidates": ["p/m", "q/m"]})
    worker = start_worker(config(providers=("p", "q")).model_copy(update={"routes": {"r": route}}))
    play(worker, script)
    play(worker, provider="q")
    batch = make_batch(database, chats(6, lane="r"))
    worker.drain("p")
    assert sum(block.bad for block in worker.runners["p"].engine._experience._blocks) == bad
    worker.drain("q")
    assert set(statuses(database, batch)) == {"succeeded"}
