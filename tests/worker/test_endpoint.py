"""A wrong address is asked again by a single call after each pause, and the others follow its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from models.database import Database
from models.request import Failure, FailureKind, FailureScope, Response
from tests.making import make_batch, statuses
from tests.servers import wait_for
from tests.worker.bench import Bench, until
from tests.worker.scripted import ANSWER, Sent, chats, config, play
from worker.endpoint import REST_SECONDS, Endpoint

DATABASES = ["sqlite"]

Start = Callable[..., Bench]
PAGE = Response(
    b"<html>", 200, failure=Failure(FailureKind.NETWORK, "unreadable_reply", "a page", 200, scope=FailureScope.ENDPOINT)
)


async def page(_: Sent) -> Response:
    return PAGE


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def doubt(endpoint: Endpoint) -> bool:
    assert PAGE.failure is not None
    return asyncio.run(endpoint.doubted(PAGE.failure, "k"))


async def no_list(_: str) -> bool | None:
    return False


def test_an_address_that_was_wrong_is_on_trial_after_its_pause_until_the_api_answers() -> None:
    clock = Clock()
    endpoint = Endpoint("p", no_list, clock)
    assert not endpoint.on_trial
    for _ in range(3):
        assert doubt(endpoint)
        assert (endpoint.wrong, endpoint.on_trial) == (True, False)
        clock.now += REST_SECONDS
        assert (endpoint.wrong, endpoint.on_trial) == (False, True)
    endpoint.answered()
    assert not endpoint.on_trial
    assert not doubt(endpoint)


@pytest.mark.parametrize("mended", [False, True])
def test_after_a_pause_one_call_asks_and_the_others_follow_its_answer(
    start_worker: Start, database: Database, mended: bool
) -> None:
    worker = start_worker(config())
    played = play(worker, page)
    batch = make_batch(database, chats(100))
    runner = worker.runners["p"]
    worker.drain("p")
    endpoint = runner.engine.endpoint
    assert endpoint.wrong
    first = len(played.sent)
    gate = asyncio.Event()

    async def asked_again(_: Sent) -> Response:
        await gate.wait()
        return ANSWER if mended else PAGE

    async def work() -> None:
        played.script = asked_again
        endpoint._until = float("-inf")  # the pause is over
        await runner.drain(1.5)
        assert len(played.sent) == first + 1
        gate.set()
        await until(lambda: not runner.in_flight)
        if mended:
            await runner.drain(60)
            await until(lambda: not runner.held)
        else:
            assert endpoint.wrong

    worker.run(work())
    assert len(played.sent) == first + (100 if mended else 1)
    wait_for(lambda: set(statuses(database, batch)) == {"succeeded" if mended else "queued"}, "the calls to be stored")
