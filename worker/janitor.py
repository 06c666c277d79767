"""Heals what crashes leave behind: finds dead workers, gives their jobs back, rings for what waits, completes what is done.

Every worker has one. It trusts no wall clock: a worker is dead when its beat hasn't changed for 45 s of this process's own time,
with this process's own heartbeats going through all that while; or when its process is gone from this very machine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from sqlalchemy.engine import Connection, RowMapping

from models.states import BatchStatus
from models.store import batches as batch_store
from models.store import finals, loads, removals
from models.store import jobs as job_store
from models.store import workers as worker_store
from worker import routing
from worker.learned import LearnedLimits
from worker.lease import BEAT_SECONDS, BLIND_SECONDS, Lease
from worker.recorder import Recorder
from worker.ruling import Ruling
from worker.runner import Runner
from worker.warden import Warden

log = logging.getLogger("truckllm.janitor")

DEAD_SECONDS = 45.0
SLOW_TICKS = 3
"""Every so many ticks (15 s) the slower checks run."""
ORPHAN_SECONDS = 15.0


class Census:
    """Which workers are dead, from what was seen of their beats. `clock` is this process's own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._seen: dict[int, tuple[int, float]] = {}

    def restart(self) -> None:
        """Forgets what was seen: this process was blind itself."""
        self._seen = {}

    def dead(self, rows: Sequence[RowMapping], mine: int) -> list[int]:
        """The dead among these rows of `workers`."""
        now = self._clock()
        known = {row["id"] for row in rows}
        if now - self._looked > BLIND_SECONDS:
            self.restart()  # this process, or all of them with their database, stood still
        self._looked = now
        found = []
        seen: dict[int, tuple[int, float]] = {}
        for row in rows:
            if row["id"] == mine:
                continue
            beat, since = self._seen.get(row["id"], (row["beat"], now))
            if beat != row["beat"]:
                since = now
            seen[row["id"]] = (row["beat"], since)
            # what ran suspects is looked after by the worker that started it, as long as that lives
            if now - since > DEAD_SECONDS or (row["alone_for"] not in known and worker_store.is_gone(row)):
                found.append(int(row["id"]))
                known.discard(row["id"])  # and what it had started comes behind it
        self._seen = seen
        return found


class Janitor:
    """Two loops on the event loop, of five seconds each: heartbeats and rescues, which only need the database; and rings and
    keys, which may have to wait for others. `ring` sends a ticket for a provider, `warden` (if any) has suspects run."""

    def __init__(
        self,
        lease: Lease,
        recorder: Recorder,
        runners: Mapping[str, Runner],
        ring: Callable[[str], Awaitable[None]],
        warden: Warden | None = None,
        ruling: Ruling | None = None,
        learned: LearnedLimits | None = None,
    ) -> None:
        self._lease = lease
        self._recorder = recorder
        self._runners = runners
        self._ring = ring
        self._warden = warden
        self._ruling = ruling
        self._learned = learned
        self._census = Census()
        self._ticks = 0
        self._lost: dict[tuple[int, int], float] = {}
        self._waiting: set[str] = set()
        self._snoozed = False
        self._unfinalized: list[int] = []
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. No failure ends it."""
        await asyncio.gather(self._repeat(self.tick, BEAT_SECONDS), self._repeat(self.call_out, 0.0))

    async def _repeat(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            try:
                await work()
            except Exception as error:
                said = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("a round failed and is tried again: %s", said)
            await asyncio.sleep(pause)

    async def tick(self) -> None:
        """Beats, and looks after the jobs of the dead and the lost."""
        if not await self._lease.beat():
            self._census.restart()
            return
        slow = self._ticks % SLOW_TICKS == 0
        self._ticks += 1
        held = {job: epoch for runner in self._runners.values() for job, epoch in runner.held.items()}
        self._waiting, suspects = await self._recorder.call(lambda connection: self._look(connection, slow, held))
        if suspects and self._warden is not None:
            self._warden.start()
        for batch_id in self._unfinalized:
            self._recorder.finalizer.take(batch_id)
        self._unfinalized = []
        self._looked.set()

    async def call_out(self) -> None:
        """After each look: rings for what waits, and sees to the keys."""
        await self._looked.wait()
        self._looked.clear()
        for runner in self._runners.values():
            lanes = set(routing.lanes(runner.engine.config, runner.name))
            if not runner.draining and self._waiting & lanes and not runner.engine.rests:
                await self._ring(runner.name)
            elif not runner.draining and self._snoozed:
                await runner.scouts.look()
        if self._ruling is not None:
            await self._ruling.refresh()
        for runner in self._runners.values():
            await runner.engine.refresh()
        if self._learned is not None:
            await self._learned.refresh()

    def _look(self, connection: Connection, slow: bool, held: Mapping[int, int]) -> tuple[set[str], bool]:
        """One round in one transaction. The lanes in which something can be claimed, and whether suspects are to run."""
        now = self._recorder.now()
        rows = worker_store.everyone(connection)
        dead = self._census.dead(rows, self._lease.worker_id)
        if dead:
            worker_store.remove(connection, dead)
            rescued = job_store.rescue(connection, dead)
            log.warning("worker(s) %s died; %d of their jobs are given back", ", ".join(map(str, dead)), rescued)
        lanes = sorted({lane for r in self._runners.values() for lane in routing.lanes(r.engine.config, r.name)})
        if slow:
            job_store.rescue(connection, None)
            self._give_orphans_back(connection, held)
            job_store.pull_in(connection, lanes, now)
            self._finish(connection, now)
        job_store.wake(connection, lanes, now)
        self._snoozed = job_store.next_due(connection, lanes) is not None
        claimable = job_store.waiting_lanes(connection, lanes)
        if self._snoozed:
            for runner in self._runners.values():
                its = routing.lanes(runner.engine.config, runner.name)
                if not runner.draining and claimable.isdisjoint(its):
                    runner.scouts.send(connection, its, now)
            claimable = job_store.waiting_lanes(connection, lanes)
        living = [row for row in rows if row["id"] not in dead]
        suspects = False
        if self._warden is not None:
            self._warden.mind(rows)
            suspects = self._warden.wanted(connection, living)
        return claimable, suspects

    def _give_orphans_back(self, connection: Connection, held: Mapping[int, int]) -> None:
        """Jobs that the database says we run and we know nothing of: a commit that got through without our hearing it."""
        monotonic = time.monotonic()
        orphans = job_store.orphans(connection, self._lease.worker_id)
        lost = {(job, epoch) for job, epoch in orphans.items() if held.get(job) != epoch}
        # a claim of this very moment may be committed and not yet known to the loop: it has to stay unknown for a while
        self._lost = {one: self._lost.get(one, monotonic) for one in lost}
        old = {job: epoch for (job, epoch), since in self._lost.items() if monotonic - since >= ORPHAN_SECONDS}
        if old:
            log.warning("%d jobs were ours without our knowing; given back", len(old))
            job_store.give_back(connection, old)

    def _finish(self, connection: Connection, now: float) -> None:
        """Backstops: batches whose last job's committer died before it looked, cancels and removals cut short, loads that nobody
        resumes, and batches whose finalizer died."""
        loads.give_up(connection, now)
        for batch in batch_store.unended(connection):
            if batch["status"] == BatchStatus.DELETING:
                removals.remove(connection, batch["id"])
                continue
            if batch["status"] == BatchStatus.CANCELLED:
                job_store.cancel_queued(connection, batch["id"], now)
            if batch_store.counts(connection, batch["id"]).left <= 0:
                batch_store.finish_if_done(connection, batch["id"], now)
        self._unfinalized = finals.waiting(connection, now)
