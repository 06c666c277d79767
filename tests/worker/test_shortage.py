"""Who is refused memory, or in a process of suspects a thread, ends with its process: no provider and no other row is blamed."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import NoReturn

import pytest

from models.database import Database
from models.request import Failure, FailureKind, Response
from tests.making import attempt_rows, make_batch, statuses
from tests.worker.bench import Bench, until
from tests.worker.scripted import Sent, chats, play
from worker import demise
from worker.http import SendError

DATABASES = ["sqlite"]


class Gone(BaseException):
    """In the place of the process's end."""


def wrapped(error: Exception) -> Exception:
    """As a plugin, or the client, passes it on: in an error of its own."""
    try:
        try:
            raise error
        except Exception:
            raise SendError(Failure(FailureKind.NETWORK, "connect_error", "no"), sent=False) from None
    except SendError as made:
        return made


SHORTAGES: dict[str, Callable[[], Exception]] = {
    "no memory": lambda: MemoryError(),
    "no memory, in another error": lambda: wrapped(MemoryError()),
    "no thread": lambda: RuntimeError("can't start new thread"),
    "no buffer, in another error": lambda: wrapped(OSError(errno.ENOMEM, "Cannot allocate memory")),
}


@pytest.mark.parametrize("name", SHORTAGES)
@pytest.mark.parametrize("alone", [True, False], ids=["among suspects", "in a worker"])
def test_what_is_behind_an_error_decides_and_a_thread_only_among_suspects(name: str, alone: bool) -> None:
    of_all = name.startswith("no memory")
    assert demise.memory_is_short(SHORTAGES[name](), alone=alone) is (alone or of_all)
    assert not demise.memory_is_short(wrapped(RuntimeError("no")), alone=alone)


@pytest.mark.parametrize("name", SHORTAGES)
def test_a_suspect_whose_call_finds_no_memory_ends_its_process_and_no_failure_is_recorded(
    start_worker: Callable[..., Bench], database: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ended: list[BaseException] = []

    def end(error: BaseException) -> NoReturn:
        ended.append(error)
        raise Gone

    monkeypatch.setattr(demise, "end", end)
    worker = start_worker()
    worker.runners["p"].engine.alone = True
    batch = make_batch(database, chats(1))

    async def script(_: Sent) -> Response:
        raise SHORTAGES[name]()

    play(worker, script)
    runner = worker.runners["p"]

    async def story() -> None:
        draining = asyncio.ensure_future(runner.drain(30))
        await until(lambda: bool(ended) and not runner.in_flight)
        runner.stop()
        await draining

    worker.run(story())
    assert isinstance(ended[0], MemoryError)
    assert statuses(database, batch) == ["running"]
    (call,) = attempt_rows(database, batch)
    assert (call["outcome"], call["error_code"]) == ("unknown", None)
    runner.held.clear()  # its process would be gone


def test_a_worker_among_others_takes_a_missing_thread_for_a_call_that_failed(
    start_worker: Callable[..., Bench], database: Database
) -> None:
    worker = start_worker()
    batch = make_batch(database, chats(1))

    async def script(_: Sent) -> Response:
        if len(played.sent) == 1:
            raise RuntimeError("can't start new thread")
        return Response(b"{}", 200, text="ok")

    played = play(worker, script)
    worker.drain("p")
    assert statuses(database, batch) == ["succeeded"]
    assert [row["error_code"] for row in attempt_rows(database, batch)] == ["plugin_error", None]
