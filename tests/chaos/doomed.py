"""Runs `truckllm` in a process that kills itself at a named point: POINT NTH AFTER MARKER, then truckllm's own arguments.

It changes nothing else: the function at that point is wrapped, and all before and after it is the real one. The moment of
death goes to the file MARKER.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

POISON = "hemlock"
"""A prompt with this word kills whatever process is about to send it, where `at_poison` is in force."""


class Doom:
    """Dies the nth time it is met, `after` so many seconds."""

    def __init__(self, nth: int, after: float, marker: str) -> None:
        self._left = nth
        self._after = after
        self._marker = marker

    def meet(self) -> None:
        self._left -= 1
        if self._left == 0:
            if self._after:
                threading.Timer(self._after, self.die).start()
            else:
                self.die()

    def die(self) -> NoReturn:
        with open(self._marker, "a") as file:
            file.write(f"{time.time()!r}\n")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("outlived SIGKILL")


def before(owner: Any, name: str, doom: Doom, when: Callable[..., Any] = lambda *_: True) -> None:
    """Meets doom at each call of a function, before it does anything, where `when` says so of its arguments."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            doom.meet()
        return real(*args, **kwargs)

    setattr(owner, name, wrapped)


def behind(owner: Any, name: str, doom: Doom, when: Callable[..., Any] = lambda *_: True) -> None:
    """Meets doom after each call of a function."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if when(*args):
            doom.meet()
        return answer

    setattr(owner, name, wrapped)


def after_claim(doom: Doom) -> None:
    """Rows are claimed, that is committed, and nothing was done with them."""
    from worker.runner import Runner

    before(Runner, "_prepare", doom, lambda _, claimed: claimed)


def after_reserve(doom: Doom) -> None:
    """The limiter has booked calls, and none of them is announced."""
    from worker.flights import Flights

    before(Flights, "board", doom)


def after_announce(doom: Doom) -> None:
    """Calls are in the ledger as `unknown`, and this one was not sent."""
    from worker.flights import Flights

    before(Flights, "_launch", doom)


def after_send(doom: Doom) -> None:
    """A call has left (`after` gives it the time), and no reply came."""
    from worker.engine import Engine

    before(Engine, "perform", doom)


def after_reply(doom: Doom) -> None:
    """A reply was read and judged, and not recorded."""
    from worker.recorder import Recorder

    before(Recorder, "record", doom)


def in_record(doom: Doom) -> None:
    """Results are written, and the transaction is not committed."""
    import worker.recorder

    behind(worker.recorder, "record", doom)


def after_record(doom: Doom) -> None:
    """Results are committed, and nobody in the process knows; whether the batch is done was not looked at."""
    from worker.recorder import Recorder

    before(Recorder, "_settle", doom, lambda _self, _operations, _answers, endings: endings)


def before_ack(doom: Doom) -> None:
    """A drain is over, and its ticket is not acknowledged."""
    from worker.process import Process

    behind(Process, "drain", doom)


def before_reconcile(doom: Doom) -> None:
    """The last row of a batch has ended, this process has taken its reconciliation over, and nothing is compared."""
    import models.finalizing

    before(models.finalizing, "reconcile", doom)


def in_reconcile(doom: Doom) -> None:
    """A chunk of a batch's books is compared."""
    from models.store.reconciliation import Reconciliation

    behind(Reconciliation, "chunk", doom)


def after_reconcile(doom: Doom) -> None:
    """A batch's books are right, and nothing says that it is completed."""
    from models.store import finals

    before(finals, "complete", doom)


def in_complete(doom: Doom) -> None:
    """A batch is called completed, and the transaction is not committed."""
    from models.store import finals

    behind(finals, "complete", doom)


def after_complete(doom: Doom) -> None:
    """A batch is completed, and nobody in the process knows."""
    import worker.finalizer

    behind(worker.finalizer, "finalize", doom)


def at_poison(doom: Doom) -> None:
    """A row that crashes its worker each time."""
    from worker.engine import Engine

    before(Engine, "perform", doom, lambda _self, prepared, *_: POISON.encode() in prepared.job.body)


def in_load(doom: Doom) -> None:
    """A chunk of a batch is stored, and not the rest."""
    from models.store import batches

    before(batches, "add_jobs", doom)


def before_publish(doom: Doom) -> None:
    """All of a batch is stored, and it is not visible."""
    from models.store import batches

    before(batches, "publish", doom)


def after_publish(doom: Doom) -> None:
    """A batch is visible, and whoever submitted it doesn't know."""
    import submit.producer

    before(submit.producer, "call_workers", doom)


def before_export(doom: Doom) -> None:
    """`run` has seen the last answer, and writes no result yet."""
    import submit.cli.run

    before(submit.cli.run, "export", doom)


def in_export(doom: Doom) -> None:
    """`run` has written some lines of the results."""
    import submit.exports

    before(submit.exports, "_outcome", doom)


def after_export(doom: Doom) -> None:
    """`run` has written the results, and has neither said so nor ended what it started."""
    import submit.cli.run

    behind(submit.cli.run, "export", doom)


POINTS: dict[str, Callable[[Doom], None]] = {
    "after-claim": after_claim,
    "after-reserve": after_reserve,
    "after-announce": after_announce,
    "after-send": after_send,
    "after-reply": after_reply,
    "in-record": in_record,
    "after-record": after_record,
    "before-ack": before_ack,
    "before-reconcile": before_reconcile,
    "in-reconcile": in_reconcile,
    "after-reconcile": after_reconcile,
    "in-complete": in_complete,
    "after-complete": after_complete,
    "in-load": in_load,
    "before-publish": before_publish,
    "after-publish": after_publish,
    "before-export": before_export,
    "in-export": in_export,
    "after-export": after_export,
}


def main() -> None:
    point, nth, after, marker, *arguments = sys.argv[1:]
    POINTS[point](Doom(int(nth), float(after), marker))
    sys.argv = ["truckllm", *arguments]
    import truckllm

    truckllm.main()


if __name__ == "__main__":
    main()
