"""Heals what crashes leave behind: finds dead workers, gives their jobs back, rings for what waits, completes what is done.

Every worker has one. It trusts no wall clock: a worker is dead when its beat hasn't changed for 45 s of this process's own time,
with this process's own heartbeats going through all that while; or when its process is gone from this very machine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import psutil
from sqlalchemy.engine import Connection, RowMapping

from models.states import BatchStatus
from models.store import batches as batch_store
from models.store import jobs as job_store
from models.store import workers as worker_store
from worker import routing
from worker.lease import BEAT_SECONDS, Identity, Lease
from worker.recorder import Recorder
from worker.runner import Runner

log = logging.getLogger("truckllm.janitor")

DEAD_SECONDS = 45.0
SLOW_TICKS = 3
"""Every so many ticks (15 s) the slower checks run."""
ORPHAN_SECONDS = 15.0


class Census:
    """Which workers are dead, from what was seen of their beats. `clock` is this process's own."""

    def __init__(self, me: Identity, clock: Callable[[], float] = time.monotonic) -> None:
        self._me = me
        self._clock = clock
        self._seen: dict[int, tuple[int, float]] = {}

    def restart(self) -> None:
        """Forgets what was seen: this process was blind itself."""
        self._seen = {}

    def dead(self, rows: Sequence[RowMapping], mine: int) -> list[int]:
        """The dead among these rows of `workers`."""
        now = self._clock()
        found = []
        seen: dict[int, tuple[int, float]] = {}
        for row in rows:
            if row["id"] == mine:
                continue
            beat, since = self._seen.get(row["id"], (row["beat"], now))
            if beat != row["beat"]:
                since = now
            seen[row["id"]] = (row["beat"], since)
            if now - since > DEAD_SECONDS or self._gone(row):
                found.append(int(row["id"]))
        self._seen = seen
        return found

    def _gone(self, row: RowMapping) -> bool:
        if (row["host"], row["boot_id"]) != (self._me.host, self._me.boot_id):
            return False
        try:
            return bool(abs(psutil.Process(row["pid"]).create_time() - row["pid_started"]) > 2.0)
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


class Janitor:
    """Runs on the event loop, every five seconds. `ring` sends a ticket for a provider."""

    def __init__(
        self,
        lease: Lease,
        recorder: Recorder,
        runners: Mapping[str, Runner],
        ring: Callable[[str], Awaitable[None]],
    ) -> None:
        self._lease = lease
        self._recorder = recorder
        self._runners = runners
        self._ring = ring
        self._census = Census(lease.identity)
        self._ticks = 0
        self._lost: dict[tuple[int, int], float] = {}

    async def run(self) -> None:
        """Until cancelled. No failure ends it."""
        while True:
            try:
                await self.tick()
            except Exception as error:
                log.warning(
                    "a round failed and is tried again: %s", str(error).splitlines()[0] if str(error) else error
                )
            await asyncio.sleep(BEAT_SECONDS)

    async def tick(self) -> None:
        if not await self._lease.beat():
            self._census.restart()
            return
        slow = self._ticks % SLOW_TICKS == 0
        self._ticks += 1
        lanes = await self._recorder.call(lambda connection: self._look(connection, slow))
        for runner in self._runners.values():
            if slow:
                await runner.engine.ring.refresh()
            config = runner.engine.config
            if (
                not runner.draining
                and lanes & set(routing.lanes(config, runner.name))
                and not runner.engine.ring.all_out
            ):
                await self._ring(runner.name)

    def _look(self, connection: Connection, slow: bool) -> set[str]:
        """One round in one transaction. The lanes in which something can be claimed."""
        now = self._recorder.now()
        rows = worker_store.everyone(connection)
        dead = self._census.dead(rows, self._lease.worker_id)
        if dead:
            worker_store.remove(connection, dead)
            rescued = job_store.rescue(connection, dead, [])
            log.warning("worker(s) %s died; %d of their jobs are given back", ", ".join(map(str, dead)), rescued)
        if slow:
            job_store.rescue(connection, None, [row["id"] for row in rows if row["id"] not in dead])
            self._give_orphans_back(connection)
            self._finish(connection, now)
        job_store.wake(connection, now)
        return job_store.waiting_lanes(connection)

    def _give_orphans_back(self, connection: Connection) -> None:
        """Jobs that the database says we run and we know nothing of: a commit that got through without our hearing it."""
        monotonic = time.monotonic()
        held = {job: epoch for runner in self._runners.values() for job, (epoch, _) in runner.held.items()}
        orphans = job_store.orphans(connection, self._lease.worker_id)
        lost = {(job, epoch) for job, epoch in orphans.items() if held.get(job) != epoch}
        # a claim of this very moment may be committed and not yet known to the loop: it has to stay unknown for a while
        self._lost = {one: self._lost.get(one, monotonic) for one in lost}
        old = {job: epoch for (job, epoch), since in self._lost.items() if monotonic - since >= ORPHAN_SECONDS}
        if old:
            log.warning("%d jobs were ours without our knowing; given back", len(old))
            job_store.give_back(connection, old)

    def _finish(self, connection: Connection, now: float) -> None:
        """Backstops: batches whose last job's committer died before it looked, and cancels cut short."""
        for batch in batch_store.newest_first(connection, 1000):
            if batch["finished_at"] is not None or batch["status"] == BatchStatus.LOADING:
                continue
            if batch["status"] == BatchStatus.CANCELLED:
                job_store.cancel_queued(connection, batch["id"], now)
            if batch_store.counts(connection, batch["id"]).left <= 0:
                batch_store.finish_if_done(connection, batch["id"], now)
