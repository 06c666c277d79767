"""A worker's heartbeat, which is the lease of every job it runs: who it is, and whether it may still send.

It judges nobody else; the janitor does.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from models import processes
from models.clocks import awake_clock
from models.errors import StorageError
from models.store import workers as worker_store
from worker.recorder import Recorder

log = logging.getLogger("truckllm.lease")

BEAT_SECONDS = 5.0
BLIND_SECONDS = 3 * BEAT_SECONDS
"""Whoever hasn't looked for so long knows nothing of the others' beats meanwhile."""
FRESH_SECONDS = 20.0
"""A worker whose last confirmed heartbeat is older sends nothing: others may be about to call it dead (after 45 s)."""


class Lease:
    """This process's row in `workers`. `lost` is called when others took it for dead, `drain` once a person tells it to end.
    `alone_for` is the worker that has started this process to run suspects, if it is such a one."""

    def __init__(
        self,
        recorder: Recorder,
        queues: Sequence[str],
        config_hash: str,
        lost: Callable[[], None],
        drain: Callable[[], None],
        alone_for: int | None = None,
    ) -> None:
        self.worker_id = 0
        self.tickets = 0
        self.beats = 0
        """How many heartbeats in a row have gone through."""
        self._recorder = recorder
        self._queues = queues
        self._config_hash = config_hash
        self._lost = lost
        self._alone_for = alone_for
        self._drain: Callable[[], None] | None = drain
        self._ending = False
        self._calls = 0
        self._confirmed = float("-inf")

    @property
    def fresh(self) -> bool:
        """Whether calls may be sent."""
        return awake_clock() - self._confirmed < FRESH_SECONDS

    def attempt_id(self) -> int:
        """A number for one call, used by no other, ever."""
        self._calls += 1
        return (self.worker_id << 32) + self._calls

    async def take(self) -> None:
        """Registers this process. Raises StorageError."""
        at = awake_clock()

        def register(connection: Connection) -> tuple[int, float]:
            now, offset = self._time(connection)
            number = worker_store.register(
                connection,
                host=processes.host(),
                boot_id=processes.boot_id(),
                pid=os.getpid(),
                pid_started=processes.started(os.getpid()) or 0.0,
                queues=self._queues,
                config_hash=self._config_hash,
                now=now,
                alone_for=self._alone_for,
            )
            if self._ending:
                worker_store.drain(connection, number)
            return number, offset

        self.worker_id, self._recorder.clock_offset = await self._recorder.call(register)
        self._calls = 0
        self._recorder.shard = self.worker_id
        self._confirmed = at

    async def beat(self) -> bool:
        """One heartbeat. False when it didn't get through."""
        at = awake_clock()

        def beat(connection: Connection) -> tuple[bool, bool, float]:
            now, offset = self._time(connection)
            alive = worker_store.beat(connection, self.worker_id, self.tickets, now)
            if self._ending:  # `end` may have found the database away
                worker_store.drain(connection, self.worker_id)
            return alive, worker_store.told_to_drain(connection, self.worker_id), offset

        try:
            alive, drained, offset = await self._recorder.call(beat)
            self._recorder.set_clock(offset)
            if alive:
                self._confirmed = at
            else:
                log.warning("worker %d was taken for dead; its jobs are others' now, it goes on anew", self.worker_id)
                self._lost()
                # under the old number nothing is to be sent, should the new one not come at once
                self._confirmed = float("-inf")
                await self.take()
        except StorageError as error:
            self.beats = 0
            log.warning("heartbeat failed: %s", str(error).splitlines()[0])
            return False
        self.beats += 1
        if drained and self._drain is not None:
            log.info("worker %d was told to end", self.worker_id)
            tell, self._drain = self._drain, None
            tell()
        return True

    def _time(self, connection: Connection) -> tuple[float, float]:
        """The database's time, and what it is ahead of our own clock. Both are read here, where no lock is waited for any more."""
        before = awake_clock()
        now = self._recorder.database.now(connection)
        return now, now - (before + awake_clock()) / 2

    async def end(self) -> None:
        """Lets the others know that this worker only finishes what it has: what one of them is to do, it doesn't do any more."""
        self._ending, self._drain = True, None
        with contextlib.suppress(StorageError):
            await self._recorder.call(lambda connection: worker_store.drain(connection, self.worker_id))

    async def leave(self) -> None:
        """Takes this process's row away; what it still ran is given back by the next janitor."""
        await self._recorder.call(lambda connection: worker_store.remove(connection, [self.worker_id]))
