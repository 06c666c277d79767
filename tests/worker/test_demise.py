"""A process that has run out of memory ends, whichever part of it was refused; so does one that has lost a thread it needs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from models.database import Database
from tests.servers import wait_for
from worker.demise import BROKEN, OUT_OF_MEMORY
from worker.finalizer import Finalizer

SCRIPT = """
import asyncio, logging, threading
from worker import demise

def fail(error):
    raise error

logging.basicConfig(format="%(levelname)s %(message)s")
loop = asyncio.new_event_loop()
demise.expect(loop)
try:
    {what}
except Exception as error:
    demise.end(error)
print("went on")
"""

CALLBACK = "loop.call_soon(fail, {}('no')); loop.call_later(0.01, loop.stop); loop.run_forever()"
THREAD = "died = threading.Thread(target=fail, args=({}('no'),), name={!r}); died.start(); died.join()"


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("fail(MemoryError())", OUT_OF_MEMORY, "CRITICAL memory has run out"),
        (CALLBACK.format("MemoryError"), OUT_OF_MEMORY, "CRITICAL memory has run out"),
        (THREAD.format("MemoryError", "anybody's"), OUT_OF_MEMORY, "CRITICAL memory has run out"),
        (THREAD.format("KeyError", "truckllm-recorder"), BROKEN, "CRITICAL a part of it has failed (KeyError)"),
        (CALLBACK.format("KeyError"), 0, "KeyError: 'no'"),
        (THREAD.format("KeyError", "anybody's"), 0, "KeyError: 'no'"),
    ],
    ids=["call", "callback", "thread", "our thread", "another error", "another's thread"],
)
def test_who_cant_go_on_ends_and_says_why(what: str, code: int, told: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(what=what)], capture_output=True, text=True, timeout=60, check=False
    )
    assert process.returncode == code
    assert told in process.stderr
    assert process.stdout == ("" if code else "went on\n")


def test_a_batch_is_finalized_once_a_thread_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    monkeypatch.setattr("worker.finalizer.finalize", lambda _database, batch, ending: taken.append(batch))
    finalizer = Finalizer(Database(f"sqlite:///{tmp_path}/truckllm.db"))

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        finalizer.take(1)
    finalizer.take(1)
    wait_for(lambda: taken == [1], "the batch to be finalized")
    finalizer.stop(5)
