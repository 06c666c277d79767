"""The one database thread of a process: it commits whatever queued up while the last commit ran.

Grouping needs no timer: the busier the disk, the bigger the groups. Endings are kept until they are stored, however long the
database is away; everything else fails at once and is asked again by its caller. It decides nothing about jobs.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from models.clocks import awake_clock
from models.database import CIRCLE_TRIES, Database, met_in_a_circle
from models.errors import DatabaseFileLost, StorageError, TruckError
from models.finalizing import ended
from models.states import JobStatus
from models.store import ends
from models.store.endings import UNSTORABLE, AttemptEnd, Ending, fail_plainly, record
from worker.finalizer import Finalizer
from worker.logs import Seldom

log = logging.getLogger("truckllm.recorder")

T = TypeVar("T")

MOST_BACKLOG_BYTES = 32 * 1024 * 1024
"""More than this waiting to be stored: no new call starts."""
MOST_GROUP_BYTES = 8 * 1024 * 1024
FINALIZE_SECONDS = 5.0
"""How long the end of a process waits for a batch that it finalizes; what takes longer is left to others."""
LOOK_SECONDS = 0.2
"""How often it is looked, while more and more waits to be stored, whether a batch is done."""
RETRY_SECONDS = 0.5
AGAIN_SECONDS = 60.0
"""How long what could not be stored in any form waits for the next try."""
CLOCK_STEP = 30.0
"""By how many seconds the database's clock must get ahead between two heartbeats to have been set."""
INTERNAL_ERROR = "internal_error"
"""The error code of a job that failed by a mistake of ours."""
OUT_OF_ORDER = {"25006", "42501", "42P01"}
"""What PostgreSQL says when it is a standby, was locked for us, or is just being restored: none of it is about one reply."""


@dataclass(slots=True)
class _Operation:
    work: Callable[[Connection], Any]
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Stored:
    ending: Ending
    size: int
    future: asyncio.Future[None]
    again: bool = False
    """Whether a mistake of ours has kept it from being stored once: it may have been the moment's."""
    plainly: bool = False
    """Whether nothing of it could be stored: its job is failed by as little code as possible. Nothing is asked again for it, because
    that would be paid for again."""


class Recorder:
    """Runs database work of the event loop on its own thread. `shard` is where this worker counts."""

    def __init__(self, database: Database, loop: asyncio.AbstractEventLoop, shard: int = 0) -> None:
        self.database = database
        self.shard = shard
        self.clock_offset = time.time() - awake_clock()
        """Seconds to add to a clock that nobody sets for the database's: no step of this machine's clock is seen here."""
        self.finalizer = Finalizer(database)
        self._steps: list[tuple[float, float]] = []  # (the database's time after a step forward, by how much)
        self._loop = loop
        self._wake = threading.Condition()
        self._operations: list[_Operation] = []
        self._endings: deque[_Stored] = deque()
        self._backlog = 0
        self._failing_since: float | None = None
        self._touched: set[int] = set()  # batches that a job of theirs may have ended, by having ended
        self._looked_at = float("-inf")
        self._mistakes = Seldom()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="truckllm-recorder", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a new call may start: commits go through, and not too much waits for them."""
        return self._failing_since is None and self._backlog < MOST_BACKLOG_BYTES

    @property
    def away_since(self) -> float | None:
        """Since when (time.monotonic) nothing could be stored; None while the database answers."""
        return self._failing_since

    @property
    def waiting(self) -> int:
        """How many endings wait to be stored."""
        return len(self._endings)

    def now(self) -> float:
        """Unix seconds by the database's clock."""
        return awake_clock() + self.clock_offset

    def set_clock(self, offset: float) -> None:
        """What the database's clock is ahead of ours by now. A step forward is remembered, so that nobody grows old by it."""
        step = offset - self.clock_offset
        if step > CLOCK_STEP:
            log.warning("the database's clock was set forward by %.0f s", step)
            self._steps = [*self._steps[-7:], (awake_clock() + offset, step)]
        self.clock_offset = offset

    def age(self, at: float) -> float:
        """Seconds that have gone by since `at`, without those that the database's clock has skipped while this process lived."""
        age = self.now() - at
        for reached, step in self._steps:
            if at < reached - step / 2:
                age -= step
        return max(0.0, age)

    async def call(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in the next transaction. Raises StorageError when that didn't commit (or nobody knows whether it did)."""
        future: asyncio.Future[T] = self._loop.create_future()
        with self._wake:
            if self._stopping:
                raise StorageError("the recorder has stopped")
            self._operations.append(_Operation(work, future))
            self._wake.notify()
        return await future

    async def insist(self, work: Callable[[Connection], T]) -> T:
        """`call` again and again until it gets through; `work` must bear being done twice. Raises StorageError only at the end."""
        while True:
            try:
                return await self.call(work)
            except StorageError:
                if self._stopping:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    def record(self, ending: Ending) -> asyncio.Future[None]:
        """Stores an ending; the future is done once it is committed."""
        size = 512 + (len(ending.answer.response) + len(ending.answer.text or b"") if ending.answer else 0)
        size += len(ending.trace or b"")
        future: asyncio.Future[None] = self._loop.create_future()
        with self._wake:
            self._endings.append(_Stored(ending, size, future))
            self._backlog += size
            self._wake.notify()
        return future

    def stop(self, timeout: float = 30.0) -> bool:
        """Stores what waits and ends the thread; call it from another thread than the loop's. False if something is left."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        self.finalizer.stop(min(timeout, FINALIZE_SECONDS))
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._operations and not self._endings and not self._stopping:
                    self._wake.wait()
                if self._stopping and not self._operations and not self._endings:
                    return
                operations, self._operations = self._operations, []
                endings: list[_Stored] = []
                size = 0
                while self._endings and (not endings or size + self._endings[0].size <= MOST_GROUP_BYTES):
                    endings.append(self._endings.popleft())
                    size += endings[-1].size
            self._commit(operations, endings)

    def _commit(self, operations: Sequence[_Operation], endings: Sequence[_Stored], again: int = CIRCLE_TRIES) -> None:
        try:
            answers, touched = self._transaction(operations, endings)
        except MemoryError:  # says nothing of what is in the group; the thread ends, and the process with it
            raise
        except Exception as error:
            if again and met_in_a_circle(error):
                self._commit(operations, endings, again - 1)
            elif _lasting(error):
                self._unavailable(operations, endings, error)
            else:  # also a bug in one operation: it must not take the others with it
                self._narrow(operations, endings, error)
        else:
            if self._failing_since is not None:
                log.warning("the database is back after %.1f s", time.monotonic() - self._failing_since)
                self._failing_since = None
            self._settle(operations, answers, endings)
            self._touched |= touched
            if not self._endings or time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._complete()

    def _transaction(self, operations: Sequence[_Operation], endings: Sequence[_Stored]) -> tuple[list[Any], set[int]]:
        touched: set[int] = set()
        with self.database.write(hurried=True) as connection:
            if whole := [stored.ending for stored in endings if not stored.plainly]:
                touched = record(connection, whole, self.shard, self.now())
            for stored in endings:
                if stored.plainly and fail_plainly(connection, stored.ending, self.shard, self.now()):
                    touched.add(stored.ending.batch_id)
            answers = [operation.work(connection) for operation in operations]
            touched |= ends.noted(connection)
        return answers, touched

    def _complete(self) -> None:
        """Has batches finalized whose last job has just ended; the janitor catches what is missed here."""
        touched, self._touched = self._touched, set()
        self._looked_at = time.monotonic()
        try:
            for batch_id in sorted(touched):
                if ended(self.database, batch_id):
                    self.finalizer.take(batch_id)
        except Exception as error:  # the janitor looks again
            log.warning("could not look whether a batch is done: %s", error)

    def _settle(self, operations: Sequence[_Operation], answers: Sequence[Any], endings: Sequence[_Stored]) -> None:
        def resolve() -> None:
            for operation, answer in zip(operations, answers, strict=True):
                if not operation.future.done():
                    operation.future.set_result(answer)
            for stored in endings:
                if not stored.future.done():
                    stored.future.set_result(None)

        with self._wake:
            self._backlog -= sum(stored.size for stored in endings)
        self._later(resolve)

    def _narrow(self, operations: Sequence[_Operation], endings: Sequence[_Stored], error: Exception) -> None:
        """A group failed for what is in it: halve it until the offender is alone, so that the rest is stored."""
        if operations and endings:
            self._commit((), endings)
            self._commit(operations, ())
        elif len(operations) > 1 or len(endings) > 1:
            half = (len(operations) + 1) // 2, (len(endings) + 1) // 2
            self._commit(operations[: half[0]], endings[: half[1]])
            self._commit(operations[half[0] :], endings[half[1] :])
        elif operations:
            if not isinstance(error, TruckError) and self._mistakes.news(type(error).__name__):
                log.error(
                    "what was asked of the database fails by itself (%s); it is tried again, and may never get through",
                    type(error).__name__,
                    exc_info=error,
                )
            self._refuse(operations, error)
        else:
            (stored,) = endings
            if self._make_do(stored, error):
                self._commit((), (stored,))
            else:  # to let it go would have the same call made, and paid for, again and again
                self._later(lambda: self._again_later(stored))

    def _make_do(self, stored: _Stored, error: Exception) -> bool:
        """What to store of an ending that failed by itself: the same once more if the mistake is ours, then ever less of it. False when
        nothing less is left."""
        ours, mistake = not isinstance(error, DBAPIError), type(error).__name__
        told = error if ours and self._mistakes.news(mistake) else None
        log.error("job %d: its ending could not be stored: %s", stored.ending.job_id, error, exc_info=told)
        if ours and not stored.again:
            stored.again = True
        elif stored.plainly:
            return False
        elif (poorer := _poorer(stored.ending, mistake)) is not None:
            stored.ending = poorer
        else:
            stored.plainly = True
            message = f"what became of its call could not be stored ({mistake}); the worker's log tells where"
            stored.ending = replace(stored.ending, error_code=INTERNAL_ERROR, error_message=message)
        return True

    def _again_later(self, stored: _Stored) -> None:
        self._loop.call_later(AGAIN_SECONDS, self._again, stored)

    def _again(self, stored: _Stored) -> None:
        with self._wake:
            self._endings.append(stored)
            self._wake.notify()

    def _unavailable(self, operations: Sequence[_Operation], endings: Sequence[_Stored], error: Exception) -> None:
        """The database is away: endings wait, nothing new starts, the rest is refused."""
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning("the database is away, no new call starts: %s", str(error).splitlines()[0])
        self._refuse(operations, error)
        with self._wake:
            self._endings.extendleft(reversed(endings))
            stopping = self._stopping
        if stopping and time.monotonic() - self._failing_since > 20:
            log.error("%d results could not be stored before the end; their calls stay unknown", len(endings))
            with self._wake:
                self._endings.clear()
            return
        time.sleep(RETRY_SECONDS)
        if not endings and not operations:
            return
        with self._wake:
            waiting = bool(self._operations or self._endings)
        if not waiting:
            self._probe()

    def _probe(self) -> None:
        """With nothing left to store, finds out whether the database is back."""
        while not self._stopping:
            try:
                with self.database.write() as connection:
                    connection.execute(sa.text("SELECT 1"))
            except Exception:
                time.sleep(RETRY_SECONDS)
                with self._wake:
                    if self._operations or self._endings:
                        return
            else:
                self._failing_since = None
                return

    def _refuse(self, operations: Sequence[_Operation], error: Exception) -> None:
        def resolve() -> None:
            for operation in operations:
                if not operation.future.done():
                    operation.future.set_exception(StorageError(f"{type(error).__name__}: {error}"))

        if operations:
            self._later(resolve)

    def _later(self, resolve: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(resolve)


def _poorer(ending: Ending, mistake: str) -> Ending | None:
    """What to store of an ending that can't be stored: first without the answer, then nothing but what is known to be
    plain; None when that has been tried."""
    if ending.error_code != UNSTORABLE:
        return replace(
            ending,
            status=JobStatus.FAILED,
            answer=None,
            trace=None,
            error_code=UNSTORABLE,
            error_message=f"this reply could not be stored ({mistake}); its cost is in the ledger",
        )
    attempt = ending.attempt
    if attempt is None or (attempt.usage is None and attempt.served_model is None and attempt.error_code is None):
        return None
    plain = AttemptEnd(attempt.attempt_id, attempt.provider, attempt.outcome, finished_at=attempt.finished_at)
    return replace(ending, attempt=plain)


def _lasting(error: Exception) -> bool:
    """Whether an error is about the database rather than about what was asked of it."""
    about_us = (
        sa.exc.OperationalError,
        sa.exc.InterfaceError,
        sa.exc.InternalError,
        sa.exc.TimeoutError,
        OSError,
        DatabaseFileLost,
    )
    if isinstance(error, about_us) or type(error) is sa.exc.DatabaseError:  # the last one: a damaged file
        return True
    return isinstance(error, DBAPIError) and (
        error.connection_invalidated or getattr(error.orig, "sqlstate", None) in OUT_OF_ORDER
    )
