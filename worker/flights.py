"""Granted calls on their way: announced, launched at their moment, sent, landed; and what this process answers for meanwhile.

It claims and books nothing (`worker.runner`), and doesn't know what a reply means (`worker.engine`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from models.errors import StorageError
from models.store import attempts as attempt_store
from models.store import jobs as job_store
from models.store.attempts import Announcement
from models.store.claims import Claimed
from models.store.endings import Ending
from worker import demise
from worker.engine import Engine
from worker.limits.limiter import Grant
from worker.prepared import Prepared
from worker.recorder import Recorder
from worker.tally import Tally

log = logging.getLogger("truckllm.flights")

ANNOUNCE_AHEAD = 0.2
"""How long before its start a call is written down: time for a commit, and no longer, because what is killed in between counts as
maybe billed."""
HELD_BACK_SECONDS = 0.5
"""For how long nothing is claimed after a cap has held back all of a group of calls, unless an answer comes."""
LATEST_START = 1.0
"""A call that is this late for its slot isn't sent: its booking stands for another moment."""


@dataclass(slots=True)
class Flight:
    """A granted call on its way: waiting for its start, or sent."""

    prepared: Prepared
    grant: Grant
    attempt_id: int
    probe: bool
    """Granted while the breaker was open: it is to go all the same."""
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Flights:
    """The calls of one drain. `shut` says whether the breaker is open, as far as is known here; `landed` is told of each that is over, however it ended; `passed_on` (lane, excluded) of jobs that
    others of their route are to take.

    `held` are the jobs that this process answers for, id → epoch, until their ending is stored.
    """

    def __init__(
        self,
        engine: Engine,
        recorder: Recorder,
        tally: Tally,
        *,
        may_send: Callable[[], bool],
        shut: Callable[[], bool],
        attempt_id: Callable[[], int],
        landed: Callable[[Prepared], None],
        passed_on: Callable[[str, str], None],
    ) -> None:
        self.held: dict[int, int] = {}
        self._engine = engine
        self._recorder = recorder
        self._tally = tally
        self._may_send = may_send
        self._shut = shut
        self._attempt_id = attempt_id
        self._landed = landed
        self._passed_on = passed_on
        self._flights: dict[int, Flight] = {}  # by attempt: a job lost and claimed again can have two
        self._gathered: list[Flight] = []
        self._announcing: asyncio.Task[None] | None = None
        self._late: list[Flight] = []
        self._unsending: asyncio.Task[None] | None = None
        self._stopping = False
        self._held_back_until = float("-inf")

    @property
    def held_back(self) -> bool:
        """Whether caps have just held back whatever was to leave, so that claiming more would gain nothing."""
        return time.monotonic() < self._held_back_until

    def __len__(self) -> int:
        return len(self._flights)

    def board(self, granted: Sequence[tuple[Prepared, Grant]]) -> None:
        """Takes granted calls on: each is announced just before its start and launched at it."""
        probe = self._shut()
        now = time.monotonic()
        for prepared, grant in granted:
            flight = Flight(prepared, grant, self._attempt_id(), probe)
            self._flights[flight.attempt_id] = flight
            self._engine.in_flight.granted(flight.attempt_id, grant, prepared.request.model)
            delay = grant.start_at - now - ANNOUNCE_AHEAD
            if delay > 0:
                flight.timer = asyncio.get_running_loop().call_later(delay, self._gather, flight)
            else:
                self._gather(flight)

    def _gather(self, flight: Flight) -> None:
        """The moment to announce: all whose moment it is share a transaction."""
        flight.timer = None
        self._gathered.append(flight)
        if self._announcing is None:
            self._announcing = asyncio.ensure_future(self._announce_gathered())

    async def _announce_gathered(self) -> None:
        try:
            while self._gathered:
                flights, self._gathered = self._gathered, []
                try:
                    await self._announce(flights)
                except Exception:  # a bug of ours: whoever was not launched by then would be held for ever
                    log.exception(
                        "%d calls could not be announced; those that were not sent are taken back", len(flights)
                    )
                    await self._abandon(flights)
        finally:
            self._announcing = None

    async def _abandon(self, flights: Sequence[Flight]) -> None:
        """Lets go of calls that were not launched, in whatever state they are."""
        left = [flight for flight in flights if flight.task is None and flight.attempt_id in self._flights]
        for flight in left:
            if flight.timer is not None:
                flight.timer.cancel()
        if left:
            await self._take_back(left)
        for flight in left:  # not before: the drain would look whether something waits, and find nothing
            self._land(flight)

    def _goes(self, flight: Flight) -> bool:
        """Whether nothing has come up since the grant that speaks against the call."""
        if self._shut() and not flight.probe:
            return False
        return self._engine.may_launch(flight.prepared, flight.grant.key)

    async def _announce(self, gathered: Sequence[Flight]) -> None:
        flights: list[Flight] = []
        held_back: list[Flight] = []
        for (
            flight
        ) in gathered:  # asked once each: what is forgotten in time may have changed the answer the second time
            (flights if self._goes(flight) else held_back).append(flight)
        if held_back:
            await self._take_back(held_back)
            for flight in held_back:
                self._land(flight)
        if not flights:
            return
        calls = [self._announcement(flight) for flight in flights]
        passed_on: dict[int, str] = {}
        try:
            announced = await self._recorder.call(
                lambda connection: attempt_store.announce(connection, calls, self._recorder.now(), passed_on)
            )
        except StorageError:
            announced = set()
        else:
            self._held_back_until = float("-inf") if announced else time.monotonic() + HELD_BACK_SECONDS
        for flight in flights:
            if flight.attempt_id in announced:
                delay = flight.grant.start_at - time.monotonic()
                if delay > 0:
                    flight.timer = asyncio.get_running_loop().call_later(delay, self._launch, flight)
                else:
                    self._launch(flight)
        refused = [flight for flight in flights if flight.attempt_id not in announced]
        if refused:
            await self._take_back(refused)
            for flight in refused:
                self._land(flight)
        for flight in refused:
            if flight.attempt_id in passed_on:
                self._passed_on(flight.prepared.job.lane, passed_on[flight.attempt_id])

    def _announcement(self, flight: Flight) -> Announcement:
        prepared, key = flight.prepared, flight.grant.key
        return Announcement(
            attempt_id=flight.attempt_id,
            job_id=prepared.job.id,
            batch_id=prepared.job.batch_id,
            epoch=prepared.job.epoch,
            provider=self._engine.name,
            key_id=key.name.removeprefix(f"{self._engine.name}/"),
            requested_model=prepared.request.model,
            booked_tokens=flight.grant.charge.tokens,
            may_cost=lambda: self._engine.bookings.may_cost(prepared.request, prepared.size, key),
            most_cost=lambda: self._engine.bookings.most_cost(prepared.request, prepared.size, key),
            longest_cost=lambda: self._engine.bookings.longest_cost(prepared.request, prepared.size, key),
            learned_cost=lambda: self._engine.bookings.learned_cost(prepared.request, prepared.size, key),
            elsewhere=lambda currency: self._engine.elsewhere(prepared, currency),
        )

    def _launch(self, flight: Flight) -> None:
        """The moment to send; the last look at lease, slot and shutdown."""
        late = time.monotonic() - flight.grant.start_at
        if (
            late > LATEST_START
            or not self._goes(flight)
            or self._stopping
            or not self._may_send()
            or not self._recorder.ready
        ):
            self._unsend(flight)
        else:
            if late > 0:
                flight.grant = self._tally.late(flight.grant, late)
            self._engine.in_flight.sent(flight.attempt_id)
            flight.task = asyncio.ensure_future(self._fly(flight))

    def _unsend(self, flight: Flight) -> None:
        """Has a call taken back that was announced and never left. On a busy machine hundreds are late at once: they share transactions."""
        self._late.append(flight)
        if self._unsending is None or self._unsending.done():
            self._unsending = asyncio.ensure_future(self._unsend_late())
        flight.task = self._unsending

    async def _unsend_late(self) -> None:
        while self._late:
            flights, self._late = self._late, []
            try:
                await self._take_back(flights)
            finally:
                for flight in flights:
                    self._land(flight)

    async def _take_back(self, flights: Sequence[Flight]) -> None:
        """Undoes announcements, also those of which nobody knows whether they were committed; however long that takes, because
        what stays in the ledger counts as a call."""
        jobs = {flight.prepared.job.id: flight.prepared.job.epoch for flight in flights}

        def undo(connection: Connection) -> None:
            attempt_store.unsent(connection, [flight.attempt_id for flight in flights])
            job_store.give_back(connection, jobs)

        try:
            await self._recorder.insist(undo)
        except StorageError as error:
            log.warning("%d calls that were never sent stay in the ledger as unknown: %s", len(jobs), error)
        for flight in flights:
            self._tally.unsent(flight.grant)
        self.let_go(jobs)

    async def _fly(self, flight: Flight) -> None:
        try:
            finished = await self._engine.perform(flight.prepared, flight.grant, flight.attempt_id)
        except Exception as error:  # a bug, ours or a plugin's
            if demise.memory_is_short(error, alone=self._engine.alone):
                demise.end(error)
            log.exception("the call of job %d could not be judged", flight.prepared.job.id)
            self.store(self._engine.stumbled(flight.prepared.job, flight.attempt_id, error))
        else:
            self.store(finished.ending)
            self._tally.add(finished, flight.grant, alone=len(self._flights) == 1)
            if finished.ending.excluded != flight.prepared.job.excluded:
                self._passed_on(flight.prepared.job.lane, finished.ending.excluded)
        finally:
            self._held_back_until = float("-inf")  # its answer may admit more
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        self._flights.pop(flight.attempt_id, None)
        self._engine.in_flight.over(flight.attempt_id)
        self._landed(flight.prepared)

    def store(self, ending: Ending) -> None:
        """Has an ending recorded; its job is let go once that is committed."""
        stored = self._recorder.record(ending)
        stored.add_done_callback(lambda _: self.let_go({ending.job_id: ending.epoch}))

    def let_go(self, jobs: Mapping[int, int]) -> None:
        """Answers for these jobs (id → epoch) no more; those claimed again meanwhile stay held."""
        for job, epoch in jobs.items():
            if self.held.get(job) == epoch:
                del self.held[job]

    async def give_back(self, jobs: Sequence[Claimed], snooze: float | None = None) -> None:
        """Returns jobs that were claimed and not sent, for `snooze` seconds out of everybody's reach."""
        until = None if snooze is None else self._recorder.now() + snooze
        held = {job.id: job.epoch for job in jobs}
        try:
            await self._recorder.insist(lambda connection: job_store.give_back(connection, held, not_before=until))
        except StorageError as error:
            log.warning("%d jobs could not be given back; others find them: %s", len(held), error)
        self.let_go(held)

    def stop(self) -> None:
        """Starts nothing more: what waits for its moment is taken back."""
        self._stopping = True
        for flight in list(self._flights.values()):
            if flight.timer and flight.task is None:
                flight.timer.cancel()
                self._unsend(flight)

    async def land(self, grace: float) -> int:
        """After `stop`: waits up to `grace` seconds for calls under way, gives the rest up. How many it gave up; those stay
        `unknown`."""
        if self._announcing:
            await self._announcing
        tasks = [flight.task for flight in self._flights.values() if flight.task]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        left = [flight for flight in self._flights.values() if flight.task and not flight.task.done()]
        for flight in left:
            assert flight.task is not None
            flight.task.cancel()
        if left:
            await asyncio.wait([flight.task for flight in left if flight.task])
            await self.give_back([flight.prepared.job for flight in left])
        await self._tally.flush()
        return len(left)
