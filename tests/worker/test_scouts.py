"""Where a few rows are all there is, and all of them wait because their provider failed, one asks again and again whether it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from models.config import Config, RouteConfig
from models.database import Database
from models.request import Failure, FailureKind, Response
from models.store import recoveries
from tests.making import attempt_rows, job_rows, make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import ANSWER, Sent, chat, chats, config, play, refusal
from worker.runner import Runner

DATABASES = ["sqlite"]

PROBE_EVERY = 0.2


@pytest.fixture
def start(start_worker: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Bench]:
    """Starts workers whose breaker lets a probe go every 0.2 s; snoozes are as long as ever."""
    monkeypatch.setattr(recoveries, "SOONEST", PROBE_EVERY * 0.9)

    def made(settings: Config | None = None) -> Bench:
        worker = start_worker(settings)
        breaker = worker.runners["p"]._breaker
        window, least, share, _, hurry = breaker._settings
        breaker._settings = (window, least, share, PROBE_EVERY, hurry)
        return worker

    return made


class Provider:
    """The script of a provider that fails everybody while it is down."""

    def __init__(self, failure: Response) -> None:
        self.failure = failure
        self.down = True

    async def __call__(self, _: Sent) -> Response:
        return self.failure if self.down else ANSWER


def drain(worker: Bench, condition: Callable[[], bool], then: Callable[[], bool] = lambda: True) -> None:
    """Lets a worker work on provider `p` until something holds, and then until something else does."""
    runner = worker.runners["p"]

    async def work() -> None:
        draining = asyncio.ensure_future(runner.drain(120))
        await until(condition, 30)
        await until(then, 30)
        runner.stop()
        await draining
        await until(lambda: not runner.in_flight and not runner.held)

    worker.run(work())


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_few_rows_find_out_that_their_provider_is_back_though_all_of_them_wait(
    start: Callable[[], Bench], database: Database, number: int
) -> None:
    provider = Provider(refusal(FailureKind.SERVER, 503))
    worker = start()
    played = play(worker, provider)
    batch = make_batch(database, chats(number))

    def long_enough() -> bool:
        provider.down = len(played.sent) < 2 * number + 5
        return not provider.down

    drain(worker, long_enough, lambda: statuses(database, batch) == ["succeeded"] * number)
    assert len(played.sent) <= 4 * number + 5, "probes, and each row once when it is back"


def test_an_outage_costs_no_more_probes_with_several_workers(start: Callable[[], Bench], database: Database) -> None:
    provider = Provider(refusal(FailureKind.SERVER, 503))
    workers = [start(), start()]
    played = [play(worker, provider) for worker in workers]
    batch = make_batch(database, chats(3))
    sent: list[float] = []

    def seen() -> bool:
        sent[:] = sorted(call.at for one in played for call in one.sent)
        return len(sent) >= 6 + 5

    async def work(worker: Bench) -> None:
        draining = asyncio.ensure_future(worker.runners["p"].drain(120))
        await until(seen, 30)
        worker.runners["p"].stop()
        await draining
        await until(lambda: not worker.runners["p"].in_flight and not worker.runners["p"].held)

    runs = [asyncio.run_coroutine_threadsafe(work(worker), worker._process._loop) for worker in workers]
    for one in runs:
        one.result(60)
    # from the first of all on: what was let go one by one may leave together where this machine stands still
    found_out = 6
    assert len(sent) <= found_out + (sent[-1] - sent[0]) / PROBE_EVERY + 2
    assert set(statuses(database, batch)) == {"queued"}


def test_a_row_outlasts_an_outage_of_all_providers_of_its_route(
    start: Callable[..., Bench], database: Database
) -> None:
    provider = Provider(refusal(FailureKind.SERVER, 503))
    route = RouteConfig.model_validate({"candidates": ["p/m", "q/m"]})
    worker = start(config(providers=("p", "q")).model_copy(update={"routes": {"r": route}}))
    played = [play(worker, provider, name) for name in ("p", "q")]
    batch = make_batch(database, [chat(0, lane="r", model="")])

    over = False

    async def keep(runner: Runner) -> None:
        while not over:  # as tickets would have it
            await runner.drain(120)
            await asyncio.sleep(0.02)

    async def work() -> None:
        nonlocal over
        drains = [asyncio.ensure_future(keep(runner)) for runner in worker.runners.values()]
        await until(lambda: min(len(one.sent) for one in played) >= 4, 60)
        provider.down = False
        await until(lambda: statuses(database, batch) == ["succeeded"], 60)
        over = True
        for runner in worker.runners.values():
            runner.stop()
        await asyncio.gather(*drains)

    worker.run(work(), 150)


def test_a_call_that_may_have_to_be_paid_for_is_not_made_early(start: Callable[[], Bench], database: Database) -> None:
    lost = Response(b"", 0, failure=Failure(FailureKind.NETWORK, "truncated", "cut"))
    worker = start()
    batch = make_batch(database, chats(5))
    played = play(worker, Provider(lost))
    runner = worker.runners["p"]
    drain(worker, lambda: runner.engine.shut() and all(row["attempts"] >= 2 for row in job_rows(database, batch)))
    with database.write() as connection:
        assert recoveries.scout(connection, "p", ["p"], worker.recorder.now() + 5) is None
    assert len(played.sent) == 10


def test_who_has_told_how_long_to_wait_is_not_asked_earlier(start: Callable[[], Bench], database: Database) -> None:
    told = Response(b"", 503, failure=Failure(FailureKind.SERVER, "http_503", "no", 503, retry_after=40.0))
    worker = start()
    batch = make_batch(database, chats(6))
    played = play(worker, Provider(told))
    runner = worker.runners["p"]
    drain(worker, lambda: runner.engine.shut() and len(played.sent) == 6)
    assert not runner.scouts.wanted
    assert {row["outcome"] for row in attempt_rows(database, batch)} == {"failed"}


def test_a_worker_that_starts_in_an_outage_has_somebody_ask(start: Callable[[], Bench], database: Database) -> None:
    provider = Provider(refusal(FailureKind.SERVER, 503))
    old = start()
    played = play(old, provider)
    batch = make_batch(database, chats(1))
    drain(old, lambda: len(played.sent) == 2 and bool(job_rows(database, batch)[0]["not_before"]))
    new = start()
    play(new, Provider(refusal(FailureKind.SERVER, 503)))
    assert not new.runners["p"].scouts.wanted

    async def rung() -> None:
        for _ in range(100):
            await new.janitor.tick()
            await new.janitor.call_out()
            if new.rung:
                return
            await asyncio.sleep(0.1)

    new.run(rung())
    assert new.rung == ["p"]


@pytest.mark.parametrize(("age", "seconds"), [(0, 4.5), (60, 4.5), (90, 10), (150, 30), (240, 60), (3600, 60)])
def test_the_longer_a_job_has_waited_the_more_seldom_it_asks(age: float, seconds: float) -> None:
    assert recoveries.patience(age) == seconds
