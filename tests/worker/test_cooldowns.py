"""A model that is refused waits by itself, for as long as it is told, where people see it and can end that."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from models.database import Database
from models.request import Failure, FailureKind, FailureScope, Response
from models.store import cooldowns
from tests.making import attempt_rows, job_rows, make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import ANSWER, Sent, chat, config, play
from worker import cooldowns as cooldowns_module

DATABASES = ["sqlite"]

DAY = 86_400.0


def limited(wait: float | None, message: str = "Rate limit reached") -> Response:
    failure = Failure(FailureKind.RATE_LIMIT, "rate_limit_exceeded", message, 429, retry_after=wait)
    return Response(b"{}", 429, failure=failure)


def big_waits(wait: float | None) -> Callable[[Sent], Awaitable[Response]]:
    """The script that refuses the model `big` and answers all others."""

    async def script(sent: Sent) -> Response:
        return limited(wait) if sent.model == "big" else ANSWER

    return script


def mixed(big: int, small: int) -> list[object]:
    """So many rows of `big` ahead of so many of `small`."""
    return [chat(n, model="big" if n < big else "small") for n in range(big + small)]


def drain(worker: Bench, story: Callable[[], Awaitable[None]], seconds: float = 90.0) -> None:
    async def work() -> None:
        over = asyncio.Event()

        async def tickets() -> None:
            while not over.is_set():
                await worker.runners["p"].drain(600)
                await asyncio.sleep(0.02)

        draining = asyncio.ensure_future(tickets())
        await story()
        over.set()
        worker.runners["p"].stop()
        await draining
        await until(lambda: not worker.runners["p"].in_flight and not worker.runners["p"].held)

    worker.run(work(), seconds)


def stored(database: Database) -> list[cooldowns.Cooldown]:
    with database.read() as connection:
        return cooldowns.everything(connection)


def test_rows_of_a_resting_model_do_not_stop_those_behind_them(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker(config({"limit_req_per_min": 6000}))
    batch = make_batch(database, mixed(300, 60))
    played = play(worker, big_waits(DAY))

    async def story() -> None:
        await until(lambda: statuses(database, batch)[300:] == ["succeeded"] * 60)

    drain(worker, story)
    assert statuses(database, batch)[:300] == ["queued"] * 300, "none fails"
    assert Counter(call.model for call in played.sent)["big"] < 200, "what was granted before the first answer came"
    (one,) = stored(database)
    assert (one.model, one.reason) == ("big", "Rate limit reached")
    assert one.until - one.since == pytest.approx(DAY, abs=10)


def test_a_job_refused_for_long_goes_back_to_its_lane_and_not_to_tomorrow(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    batch = make_batch(database, mixed(1, 1))
    play(worker, big_waits(DAY))

    async def story() -> None:
        await until(lambda: stored(database) and statuses(database, batch)[1] == "succeeded")

    drain(worker, story)
    (big, _) = job_rows(database, batch)
    assert big["status"] == "queued"
    assert (big["not_before"] or 0) < worker.recorder.now() + 10, (
        "the limiter holds it, so that it goes when that is ended"
    )


def test_a_wait_of_decades_counts_as_a_day(start_worker: Callable[..., Bench], database: Database) -> None:
    worker = start_worker()
    make_batch(database, mixed(1, 0))
    play(worker, big_waits(2.4e9))

    async def story() -> None:
        await until(lambda: stored(database))

    drain(worker, story)
    (one,) = stored(database)
    assert one.until - one.since == pytest.approx(DAY, abs=10)


def test_a_person_ends_the_wait_for_all_workers(start_worker: Callable[..., Bench], database: Database) -> None:
    settings = config()
    worker, other = start_worker(settings), start_worker(settings)
    batch = make_batch(database, mixed(3, 0))
    refusing = True

    async def script(_: Sent) -> Response:
        return limited(DAY) if refusing else ANSWER

    played = play(worker, script)

    async def story() -> None:
        nonlocal refusing
        await until(lambda: stored(database))
        await until(lambda: not worker.runners["p"].in_flight)
        refusing = False
        asked = len(played.sent)
        with database.write() as connection:
            (ended,) = cooldowns.lift(connection, stored(database)[0].pool, database.now(connection))
        assert ended.model == "big"
        assert len(played.sent) == asked
        await asyncio.to_thread(other.run, other.runners["p"].engine.refresh())
        await worker.runners["p"].engine.refresh()
        await until(lambda: set(statuses(database, batch)) == {"succeeded"})

    drain(worker, story)


def test_a_redis_that_lost_everything_is_told_of_the_wait_again(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    batch = make_batch(database, mixed(2, 0))
    played = play(worker, big_waits(DAY))

    async def story() -> None:
        await until(lambda: stored(database) and not worker.runners["p"].in_flight)

    drain(worker, story)
    fresh = start_worker(worker.config)

    async def lose() -> None:
        await fresh.limiter._client.flushall()
        await fresh.runners["p"].engine.take_over()
        (room,) = await fresh.limiter.room(list(fresh.keys("p").usable("big")))
        assert room.models["big"] == pytest.approx(DAY, abs=60)
        assert room.cooling == 0

    fresh.run(lose())
    again = play(fresh, big_waits(DAY))
    assert fresh.drain("p", 1.0) is False, "the drain ends: nothing can start for long"
    assert again.sent == []
    assert len(played.sent) >= 1
    assert statuses(database, batch) == ["queued"] * 2


def test_after_a_long_wait_one_call_goes_first_and_the_others_follow_its_answer(
    start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cooldowns_module, "WARM_SECONDS", 0.5)
    worker = start_worker()
    batch = make_batch(database, mixed(20, 0))
    answer = asyncio.Event()

    async def script(sent: Sent) -> Response:
        await answer.wait()
        return ANSWER

    played = play(worker, script)
    (key,) = worker.keys("p").usable("big")

    async def story() -> None:
        now = worker.recorder.now()
        one = cooldowns.Cooldown(key.pool, "big", key.name, "no", now - 60, now + 1.0)
        await worker.recorder.call(lambda connection: cooldowns.begin(connection, one))
        await worker.limiter._client.set(
            f"{{truckllm}}:r:{key.pool}",
            __import__("msgspec").msgpack.encode({"big": [time.time() + 1.0, 0, 1]}),
        )
        await worker.runners["p"].engine.take_over()
        await until(lambda: played.sent)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 1.0, 10)
        assert len(played.sent) == 1
        answer.set()
        await until(lambda: set(statuses(database, batch)) == {"succeeded"})
        assert stored(database) == []

    drain(worker, story)


def test_a_days_quota_of_one_model_takes_no_key_out_of_use(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    batch = make_batch(database, mixed(5, 5))

    async def script(sent: Sent) -> Response:
        if sent.model != "big":
            return ANSWER
        message = "You exceeded your current quota"
        failure = Failure(
            FailureKind.QUOTA, "resource_exhausted", message, 429, resets_in=40_000.0, scope=FailureScope.MODEL
        )
        return Response(b"{}", 429, failure=failure)

    play(worker, script)

    async def story() -> None:
        await until(lambda: statuses(database, batch)[5:] == ["succeeded"] * 5)

    drain(worker, story)
    assert statuses(database, batch)[:5] == ["queued"] * 5
    assert worker.keys("p").all_out is None
    (one,) = stored(database)
    assert one.until - one.since == pytest.approx(40_000, abs=10)


def test_a_wait_that_names_the_account_holds_all_its_models_and_ends_the_drain(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    batch = make_batch(database, mixed(3, 3))

    async def script(_: Sent) -> Response:
        failure = Failure(
            FailureKind.RATE_LIMIT, "rate_limited", "your account", 429, retry_after=7200.0, scope=FailureScope.POOL
        )
        return Response(b"{}", 429, failure=failure)

    played = play(worker, script)
    assert worker.drain("p", 20.0) is False
    assert statuses(database, batch) == ["queued"] * 6
    (one,) = stored(database)
    assert (one.model, one.reason) == ("", "your account")
    asked = len(played.sent)
    worker.tick()
    assert worker.rung == [], "nobody is rung for what can't start"
    assert worker.drain("p", 5.0) is False
    assert len(played.sent) == asked


def test_with_two_keys_the_refused_job_goes_on_at_once_on_the_other(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker(config({}, {}))
    batch = make_batch(database, mixed(8, 0))

    async def script(sent: Sent) -> Response:
        return limited(3600) if sent.secret == "secret-0" else ANSWER

    play(worker, script)

    async def story() -> None:
        await until(lambda: set(statuses(database, batch)) == {"succeeded"}, 20)

    drain(worker, story)
    assert {row["outcome"] for row in attempt_rows(database, batch)} <= {"succeeded", "rate_limited"}


def test_a_model_refused_ten_times_does_not_fail_because_another_is_answered(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    engine = worker.runners["p"].engine
    for _ in range(50):
        engine._lived_through("good", "small")
    engine._lived_through("limited", "big")
    assert engine._experience.answers_others("limited", 60, 1)
    assert not engine._of_models["big"].answers_others("limited", 60, 1)


@pytest.mark.parametrize("limits", ["fixed", "learn"])
def test_a_rate_is_learned_only_where_the_provider_s_limits_say_so(
    limits: str, start_worker: Callable[..., Bench], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config()
    provider = settings.providers[0].model_copy(update={"limits": limits})
    worker = start_worker(settings.model_copy(update={"providers": (provider,)}))
    batch = make_batch(database, [chat(n) for n in range(60)])
    taken = Counter[int]()

    async def two_a_second(sent: Sent) -> Response:
        taken[int(sent.at)] += 1
        return ANSWER if taken[int(sent.at)] <= 2 else limited(1.0)

    play(worker, two_a_second)

    async def story() -> None:
        await until(lambda: statuses(database, batch).count("succeeded") >= 8)

    drain(worker, story)
    assert ("the server allows about" in caplog.text) is (limits == "learn")
