"""Which other candidates of a route are free to take a job, by what Redis, keys and cooldowns show."""

from __future__ import annotations

from collections.abc import Callable

from models.database import Database
from models.request import FailureKind
from tests.making import make_batch
from tests.worker.bench import Bench
from tests.worker.scripted import Sent, chats, config, play, refusal
from worker.candidates import Candidates
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
