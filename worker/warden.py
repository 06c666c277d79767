"""The process in which suspects run apart: when a worker starts one, what it does, and what its death says about a job.

It decides nothing about single jobs: `models.store.suspects` says who is one, and who is poison.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy.engine import Connection, RowMapping

from models import processes
from models.config import Config
from models.crew import OURS
from models.errors import StorageError
from models.processes import Child, Ended
from models.store import batches as batch_store
from models.store import suspects as suspect_store
from models.store import workers as worker_store
from models.store.suspects import Crash
from worker import demise, memory, routing
from worker.lease import BLIND_SECONDS
from worker.recorder import Recorder
from worker.runner import Runner

log = logging.getLogger("truckllm.warden")

LOOK_SECONDS = 0.1
"""How often it is looked whether the process still lives."""

AGAIN_SECONDS = 10.0
"""How long none is started after one that died without having run anything."""

PATIENCE = 25
"""Ticks of the watchdog after which such a process is ended when it hangs: before anybody takes it for dead, because then what hung it
would be given back as if it had done nothing."""

SILENT_SECONDS = 32.0
"""So long without a beat, and it is ended: its loop goes on, and yet it does nothing."""

LINGER_SECONDS = 5.0
"""How long such a process waits for more suspects before it ends."""

PAUSE_SECONDS = 0.5

PART_SECONDS = 10.0
"""How long such a process waits at its end for what it is just claiming or giving back, should the database be away."""

FIRST_TO_GO = "500"
"""Added to its chances when the system, out of memory, looks for a process to end: better this one than those beside it."""


class Warden:
    """The part of an ordinary worker that has suspects run apart. `providers` are those that it was told to serve; `worker_id` gives
    its present number. `clock` is monotonic."""

    def __init__(
        self,
        config: Config,
        providers: Sequence[str],
        recorder: Recorder,
        worker_id: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = [*OURS, "--parent-pipe", "0"]
        if config.path is not None:
            self._command += ["-c", str(config.path.absolute())]
        for provider in providers:
            self._command += ["--provider", provider]
        self._lanes = lanes(config, providers)
        self._recorder = recorder
        self._worker_id = worker_id
        self._child: Child | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._not_before = float("-inf")
        self._clock = clock
        self._sign: tuple[int, int | None] | None = None  # its pid and beat, as last seen
        self._sign_at = self._looked = float("-inf")

    @property
    def pid(self) -> int | None:
        """The process id of the one that runs suspects at this moment."""
        return self._child.pid if self._child is not None else None

    def wanted(self, connection: Connection, rows: Sequence[RowMapping]) -> bool:
        """Whether it is this worker's turn to have suspects run: there are some, and of all workers of this machine that serve the
        same providers, none is older. `rows` are all workers."""
        mine = next((row for row in rows if row["id"] == self._worker_id()), None)
        if mine is None:
            return False
        peers = [row for row in rows if _same_post(row, mine) and not row["draining"]]
        return min((row["id"] for row in peers), default=0) == mine["id"] and suspect_store.waiting(
            connection, self._lanes
        )

    def start(self) -> None:
        """Starts such a process, unless one runs; call it on the loop, whose thread has to outlive it."""
        if self._stopping or self._watching is not None or time.monotonic() < self._not_before:
            return
        child = Child("the process of suspects", [*self._command, "--alone-for", str(self._worker_id())])
        try:
            child.start()
        except OSError as error:  # no memory, no process left: the rest of the janitor's round must not wait for that
            log.warning("%s can't be started now: %s", child.name, error)
            self._not_before = time.monotonic() + AGAIN_SECONDS
            return
        self._child = child
        self._watching = asyncio.ensure_future(self._watch(child))

    def mind(self, rows: Sequence[RowMapping]) -> None:
        """Ends the process of suspects if it has shown no life for long, so that what is in it is charged. `rows` are all workers."""
        child, now = self._child, self._clock()
        if child is None or (pid := child.pid) is None or self._stopping:
            self._sign = None
            return
        here = (processes.host(), processes.boot_id(), pid)
        beat = next((row["beat"] for row in reversed(rows) if (row["host"], row["boot_id"], row["pid"]) == here), None)
        if self._sign != (pid, beat) or now - self._looked > BLIND_SECONDS:
            self._sign, self._sign_at = (pid, beat), now
        self._looked = now
        if now - self._sign_at > SILENT_SECONDS:
            log.warning("%s has shown no life for %.0f s and is ended", child.name, now - self._sign_at)
            child.signal(signal.SIGKILL)

    async def _watch(self, child: Child) -> None:
        assert child.process is not None
        pid, began = child.process.pid, time.monotonic()
        started = processes.started(pid)
        again = False
        try:
            while (code := child.process.poll()) is None:  # noqa: ASYNC110 - no event tells of it on every system
                await asyncio.sleep(LOOK_SECONDS)
            child.release(0.0)
            if not self._stopping:
                again = await self._settle(pid, started, Ended(child.name, code, time.monotonic() - began, ""))
        finally:
            self._child = self._watching = None
        if again:
            self.start()

    async def _settle(self, pid: int, started: float | None, ended: Ended) -> bool:
        """It has ended by itself: what it left behind is its own doing. Whether it is this worker's turn to start another."""
        here = (processes.host(), processes.boot_id(), pid)

        def settle(connection: Connection) -> tuple[Crash | None, bool]:
            crash = None
            for row in worker_store.everyone(connection):
                if (row["host"], row["boot_id"], row["pid"]) == here and row["pid_started"] == started:
                    crash = suspect_store.crashed(connection, row["id"], ended.how, self._recorder.now())
            return crash, self.wanted(connection, worker_store.everyone(connection))

        while True:
            try:
                crash, again = await self._recorder.call(settle)
                break
            except StorageError:
                if self._stopping:
                    return False
                await asyncio.sleep(PAUSE_SECONDS)
        if crash is None or not crash.rescued:
            if ended.code != 0:
                log.warning("%s %s with nothing in it", ended.name, ended.how)
                self._not_before = time.monotonic() + AGAIN_SECONDS
        elif crash.alone is None:
            log.warning("%s %s; %d jobs are given back", ended.name, ended.how, crash.rescued)
        else:
            log.warning("%s %s with job %d alone in it (%d of 2)", ended.name, ended.how, crash.alone, crash.crashes)
        if crash is not None and crash.ended is not None:
            log.error("job %d of batch %d is poison: it has failed", crash.alone, crash.ended)
            await self._finish(crash.ended)
        return again

    async def _finish(self, batch_id: int) -> None:
        """Completes the batch if that was its last job, in a transaction after the one that ended it; the janitor is the backstop."""
        now = self._recorder.now()
        with contextlib.suppress(StorageError):
            await self._recorder.call(lambda connection: batch_store.finish_if_done(connection, batch_id, now))

    def stop(self) -> None:
        """Has the process end as this one does: it finishes its calls and gives the rest back. Its end counts for nothing."""
        if self._stopping:  # a second signal would have it give up its calls
            return
        self._stopping = True
        if self._child is not None:
            self._child.signal(signal.SIGTERM)

    @property
    def ended(self) -> bool:
        """Whether no such process is left."""
        return self._child is None or self._child.pid is None


def _same_post(row: RowMapping, mine: RowMapping) -> bool:
    return row["alone_for"] is None and all(row[name] == mine[name] for name in ("host", "boot_id", "queues"))


def lanes(config: Config, providers: Sequence[str]) -> list[str]:
    """All lanes from which these providers may take."""
    return sorted({lane for name in providers for lane in routing.lanes(config, name)})


def volunteer() -> None:
    """Makes this process the first that Linux ends when memory runs out, so that who started it can tell of it; elsewhere it does
    nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path(f"/proc/{os.getpid()}/oom_score_adj").write_text(FIRST_TO_GO)
        memory.stay_within_group()


async def attend(
    runners: Mapping[str, Runner], config: Config, recorder: Recorder, stopping: Callable[[], bool]
) -> None:
    """What the process itself does: runs suspects until none has waited for a while, or `stopping` says so."""
    of_interest = lanes(config, list(runners))
    budget = config.worker.budget_seconds
    over = asyncio.Event()

    async def tend(runner: Runner) -> None:
        while not over.is_set():
            try:
                await runner.drain(budget)
            except Exception as error:
                if demise.memory_is_short(error, alone=True):
                    demise.end(error)
                log.warning("a drain of suspects failed and is tried again: %s", type(error).__name__)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), PAUSE_SECONDS)

    tending = [asyncio.ensure_future(tend(runner)) for runner in runners.values()]
    seen = time.monotonic()
    while not stopping() and time.monotonic() - seen < LINGER_SECONDS:
        with contextlib.suppress(StorageError):
            waits = await recorder.call(lambda connection: suspect_store.waiting(connection, of_interest))
            if waits or any(runner.held for runner in runners.values()):
                seen = time.monotonic()
        await asyncio.sleep(PAUSE_SECONDS)
    over.set()
    for runner in runners.values():
        runner.stop()
    # not cancelled: a claim that is cut short is found only when this process is gone, and counts against its jobs
    await asyncio.wait(tending, timeout=PART_SECONDS)
