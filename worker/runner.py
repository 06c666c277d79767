"""One provider's drain: claim → reserve → announce → launch → record, topping up until nothing is claimable or time is over.

It decides about starting, never about what a reply means (`worker.engine`) or what comes next (`worker.failover`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import redis.exceptions
from sqlalchemy.engine import Connection

from models.errors import StorageError
from models.store import attempts as attempt_store
from models.store import jobs as job_store
from models.store.attempts import Announcement
from models.store.endings import Ending
from models.store.jobs import Claimed
from worker import routing
from worker.breaker import Breaker
from worker.engine import Engine, NoKey, Prepared
from worker.limits.limiter import MOST_WANTS, Grant, Limiter, TooLarge, Wait
from worker.recorder import Recorder
from worker.tally import Tally
from worker.turns import Turns

log = logging.getLogger("truckllm.runner")

HOLD_SECONDS = 2.0
"""A claimed job that may not start within this goes back, so that other workers and a cancel can have it."""
LATEST_START = 1.0
"""A call that is this late for its slot isn't sent: its booking stands for another moment."""
LEAST_PAUSE = 0.2
LEAST_ASK = 16
MOST_PAUSE = 1.0
WAKE_SECONDS = 0.5
MOST_INPUT_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 0.25


@dataclass(slots=True)
class Flight:
    """A granted call on its way: waiting for its start, or sent."""

    prepared: Prepared
    grant: Grant
    attempt_id: int
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None


class Runner:
    """The drain of one provider in one process.

    `worker_id` gives the worker's present number, `may_send` says whether its lease is fresh, `attempt_id` numbers calls.
    """

    def __init__(
        self,
        engine: Engine,
        limiter: Limiter,
        breaker: Breaker,
        recorder: Recorder,
        turns: Turns,
        *,
        worker_id: Callable[[], int],
        may_send: Callable[[], bool],
        attempt_id: Callable[[], int],
    ) -> None:
        self.engine = engine
        self.draining = False
        self.held: dict[int, int] = {}
        """Jobs that this process answers for: id → epoch, until their ending is stored."""
        self._limiter = limiter
        self._breaker = breaker
        self._recorder = recorder
        self._turns = turns
        self._worker_id = worker_id
        self._may_send = may_send
        self._attempt_id = attempt_id
        self._concurrency = engine.config.worker.concurrency
        self._waiting: list[Prepared] = []
        self._flights: dict[int, Flight] = {}  # by attempt: a job lost and claimed again can have two
        self._slow: dict[tuple[str, str], float] = {}  # (lane, model) → until when its limits let nothing start
        self._bytes = 0
        self._ask = MOST_WANTS
        self._woken_at = float("-inf")
        self._claimable: float | None = 0.0
        self._ended_without_call = 0
        self._stopping = False
        self._landed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._tally = Tally(engine.name, limiter, breaker)

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def in_flight(self) -> int:
        return len(self._flights)

    # The drain

    async def drain(self, budget: float) -> bool:
        """Works until nothing is claimable or `budget` seconds are over. True when work may be left: ring again."""
        if self.draining or self._stopping:
            return False
        self.draining = True
        self._turns.begin()
        deadline = time.monotonic() + budget
        try:
            while not self._stopping and time.monotonic() < deadline:
                if not await self._round(deadline):
                    return False
            return not self._stopping
        finally:
            self.draining = False
            await self._return_waiting()

    async def _round(self, deadline: float) -> bool:
        """One turn. False when there is nothing more to do now."""
        if not (self._recorder.ready and self._may_send()):
            await self._return_waiting()
            await self._pause(WAKE_SECONDS)
            return True
        free = self._concurrency - len(self._flights)
        if free <= 0:
            await self._turns.full(self.engine.latency_ms)
            await self._pause(IDLE_SECONDS, landing=True)
            return True
        if self.engine.ring.all_out:
            return False
        wanted = min(free, self._ask) - len(self._waiting)
        if wanted > 0 and not await self._claim(wanted):
            return True
        if not self._waiting:
            if self._ended_without_call:
                self._ask = MOST_WANTS
                return True
            if self._slow:
                await self._pause(LEAST_PAUSE)
                return True
            return await self._idle(deadline)
        seconds = await self._start()
        if seconds > 0:
            # jobs for other models, or lifted quarantines, may be startable before this one is
            await self._pause(min(seconds, MOST_PAUSE, max(0.0, deadline - time.monotonic()) + LEAST_PAUSE))
        return True

    async def _idle(self, deadline: float) -> bool:
        if self._flights:
            await self._pause(IDLE_SECONDS, landing=True)
            return True
        due = self._claimable
        wait = None if due is None else due - self._recorder.now()
        if wait is None or wait > deadline - time.monotonic():
            return False
        await self._pause(min(max(wait, WAKE_SECONDS), MOST_PAUSE))
        return True

    async def _pause(self, seconds: float, *, landing: bool = False) -> None:
        """Waits; ends early when the runner stops, or (landing) when a call has come back."""
        event = self._landed if landing else self._stopped
        if landing and not self._stopping:
            event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    # Claim

    async def _claim(self, most: int) -> bool:
        """Claims and prepares up to `most` jobs. False when the database didn't answer."""
        now = time.monotonic()
        wake = now - self._woken_at >= WAKE_SECONDS
        room = MOST_INPUT_BYTES - self._bytes
        worker_id = self._worker_id()
        lanes = await self._turns.open_lanes(self.engine.latency_ms)
        withheld = [lane for lane in self._turns.lanes if lane not in lanes]
        if any(self._turns.takes_turns(lane) for lane in lanes):
            most = min(most, routing.ROUND)

        def claim(connection: Connection) -> tuple[list[Claimed], float | None]:
            at = self._recorder.now()
            if wake:
                job_store.wake(connection, self._turns.lanes, at)
            claimed = job_store.claim(
                connection,
                provider=self.name,
                lanes=lanes,
                worker_id=worker_id,
                most=most,
                most_bytes=max(room, 1),
                now=at,
                skip=skip,
                withheld=withheld,
            )
            if claimed or (withheld and not job_store.waiting_lanes(connection).isdisjoint(withheld)):
                return claimed, at
            return claimed, job_store.next_due(connection, self._turns.lanes)

        if room <= 0 and self._flights:
            if not self._waiting:
                await self._pause(IDLE_SECONDS, landing=True)
            return bool(self._waiting)
        self._slow = {what: until for what, until in self._slow.items() if until > now}
        skip = list(self._slow)
        try:
            claimed, self._claimable = await self._recorder.call(claim)
        except StorageError:
            await self._pause(WAKE_SECONDS)
            return False
        if wake:
            self._woken_at = now
        if worker_id != self._worker_id():
            return False  # declared dead meanwhile: these jobs are somebody else's
        self.held |= {job.id: job.epoch for job in claimed}
        self._ended_without_call = 0
        await self._turns.count(claimed)
        await self._prepare([(job, now) for job in claimed])
        return True

    async def _prepare(self, claimed: Sequence[tuple[Claimed, float]]) -> None:
        """Puts claimed jobs (with when that was) among those that wait for the limiter, or lets them go."""
        back: list[Claimed] = []
        for job, since in claimed:
            prepared = self.engine.prepare(job)
            if isinstance(prepared, Prepared):
                self._waiting.append(replace(prepared, since=since))
                self._bytes += len(job.body)
            elif isinstance(prepared, NoKey):
                back.append(job)
            else:
                self._store(prepared)
                self._ended_without_call += 1
        if back:
            await self._give_back(back, snooze=WAKE_SECONDS)

    async def _reconsider(self) -> None:
        """Prepares anew what waits, where a key or a model has turned out since not to do, or to do again."""
        stale = [prepared for prepared in self._waiting if not self.engine.stands(prepared)]
        if stale:
            self._waiting = [prepared for prepared in self._waiting if self.engine.stands(prepared)]
            for prepared in stale:
                self._drop(prepared)
            await self._prepare([(prepared.job, prepared.since) for prepared in stale])

    # Reserve, announce, launch

    async def _start(self) -> float:
        """Books and launches what may start within the next second. Seconds to wait before the next turn."""
        await self._reconsider()
        if not self._waiting:
            return 0.0
        try:
            allowed, wait = await self._breaker.admit(self.name, len(self._waiting))
            if allowed <= 0:
                await self._turns.full(self.engine.latency_ms)
                await self._return_waiting()
                self._ask = 1
                return max(wait, LEAST_PAUSE)
            asking = self._waiting[: min(allowed, MOST_WANTS)]
            answers = await self._limiter.reserve([prepared.want for prepared in asking])
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            log.warning("%s: Redis is away, no new call starts: %s", self.name, type(error).__name__)
            await self._return_waiting()
            return 1.0
        granted: list[tuple[Prepared, Grant]] = []
        pauses: list[float] = []
        back: list[Prepared] = []
        later: list[Prepared] = []
        now = time.monotonic()
        for prepared, answer in zip(asking, answers, strict=True):
            match answer:
                case Grant():
                    granted.append((prepared, answer))
                case TooLarge():
                    self._drop(prepared)
                    self._refuse(prepared, answer)
                case Wait():
                    pauses.append(answer.seconds)
                    waited = now - prepared.since + answer.seconds > HOLD_SECONDS
                    (back if waited and not answer.held else later).append(prepared)
        self._waiting = later + self._waiting[len(asking) :]
        self._turns.room = not pauses
        self._ask = min(MOST_WANTS, self._ask * 2) if not pauses else max(1, len(granted) * 2)
        if granted:
            await self._announce(granted)
        if back:
            for prepared in back:
                self._drop(prepared)
            await self._give_back([prepared.job for prepared in back])
        if self.engine.ring.by_model and pauses:
            # with limits by model, what waits for one model must not stand before what could start on another
            until = now + max(min(pauses), LEAST_PAUSE)
            self._slow |= {(prepared.job.lane, prepared.job.model): until for prepared in back}
            self._ask = max(self._ask, LEAST_ASK)
            return LEAST_PAUSE
        return max(min(pauses), LEAST_PAUSE) if pauses else 0.0

    def _refuse(self, prepared: Prepared, answer: TooLarge) -> None:
        """A job bigger than a whole minute: for good, unless a key that is out of use just now has more."""
        if self.engine.ring.some_out:
            asyncio.ensure_future(self._give_back([prepared.job], snooze=MOST_PAUSE))
        else:
            self._store(self.engine.too_large(prepared.job, answer.unit, answer.amount, answer.limit))

    async def _announce(self, granted: Sequence[tuple[Prepared, Grant]]) -> None:
        flights = [Flight(prepared, grant, self._attempt_id()) for prepared, grant in granted]
        for flight in flights:
            self._flights[flight.attempt_id] = flight
        calls = [self._announcement(flight) for flight in flights]
        try:
            announced = await self._recorder.call(
                lambda connection: attempt_store.announce(connection, calls, self._recorder.now())
            )
        except StorageError:
            announced = set()
        for flight in flights:
            if flight.attempt_id in announced:
                delay = flight.grant.start_at - time.monotonic()
                flight.timer = asyncio.get_running_loop().call_later(max(0.0, delay), self._launch, flight)
            else:
                self._land(flight)
        refused = [flight for flight in flights if flight.attempt_id not in announced]
        if refused:
            await self._take_back(refused)

    def _announcement(self, flight: Flight) -> Announcement:
        prepared, key = flight.prepared, flight.grant.key
        cost = self.engine.may_cost(prepared, key)
        return Announcement(
            attempt_id=flight.attempt_id,
            job_id=prepared.job.id,
            batch_id=prepared.job.batch_id,
            epoch=prepared.job.epoch,
            provider=self.name,
            key_id=key.name.removeprefix(f"{self.name}/"),
            requested_model=prepared.request.model,
            booked_tokens=flight.grant.charge.tokens,
            cost_nanos=cost.nanos if cost else None,
            currency=cost.currency if cost else None,
        )

    def _launch(self, flight: Flight) -> None:
        """The moment to send; the last look at lease, slot and shutdown."""
        late = time.monotonic() - flight.grant.start_at > LATEST_START
        pointless = not self.engine.ring.serves(flight.grant.key.name, flight.prepared.request.model)
        if late or pointless or self._stopping or not self._may_send() or not self._recorder.ready:
            flight.task = asyncio.ensure_future(self._unsend(flight))
        else:
            flight.task = asyncio.ensure_future(self._fly(flight))

    async def _unsend(self, flight: Flight) -> None:
        """Takes back a call that was announced and never left."""
        await self._take_back([flight])
        self._land(flight)

    async def _take_back(self, flights: Sequence[Flight]) -> None:
        """Undoes announcements, also those of which nobody knows whether they were committed."""
        jobs = {flight.prepared.job.id: flight.prepared.job.epoch for flight in flights}

        def undo(connection: Connection) -> None:
            attempt_store.unsent(connection, [flight.attempt_id for flight in flights])
            job_store.give_back(connection, jobs)

        try:
            await self._recorder.call(undo)
        except StorageError as error:
            log.warning("%d jobs could not be given back now; the heartbeats see to it: %s", len(jobs), error)
        self._let_go(jobs)

    async def _fly(self, flight: Flight) -> None:
        try:
            finished = await self.engine.perform(flight.prepared, flight.grant, flight.attempt_id)
        except Exception:
            # a bug, ours or a plugin's: the call stays `unknown`, the slot is free, the heartbeats give the job back
            log.exception("the call of job %d could not be judged", flight.prepared.job.id)
            self._let_go({flight.prepared.job.id: flight.prepared.job.epoch})
        else:
            self._tally.add(finished, flight.grant)
            self._store(finished.ending)
        finally:
            self._land(flight)

    # Letting go

    def _store(self, ending: Ending) -> None:
        stored = self._recorder.record(ending)
        stored.add_done_callback(lambda _: self._let_go({ending.job_id: ending.epoch}))

    def _let_go(self, jobs: Mapping[int, int]) -> None:
        """Answers for these jobs no more; those claimed again meanwhile stay held."""
        for job, epoch in jobs.items():
            if self.held.get(job) == epoch:
                del self.held[job]

    def _land(self, flight: Flight) -> None:
        self._flights.pop(flight.attempt_id, None)
        self._drop(flight.prepared)
        self._landed.set()

    def _drop(self, prepared: Prepared) -> None:
        self._bytes -= len(prepared.job.body)

    async def _return_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for prepared in waiting:
            self._drop(prepared)
        if waiting:
            await self._give_back([prepared.job for prepared in waiting])

    async def _give_back(self, jobs: Sequence[Claimed], snooze: float | None = None) -> None:
        until = None if snooze is None else self._recorder.now() + snooze
        held = {job.id: job.epoch for job in jobs}
        try:
            await self._recorder.call(lambda connection: job_store.give_back(connection, held, not_before=until))
        except StorageError as error:
            log.warning("%d jobs could not be given back now; the next heartbeats see to it: %s", len(held), error)
        self._let_go(held)

    def abandon(self) -> None:
        """This worker was declared dead: what it held and didn't send is somebody else's; what it sent will be fenced."""
        for prepared in self._waiting:
            self._drop(prepared)
        self._let_go({prepared.job.id: prepared.job.epoch for prepared in self._waiting})
        self._waiting = []

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping = True
        self._stopped.set()
        self._landed.set()
        for flight in list(self._flights.values()):
            if flight.timer and flight.task is None:
                flight.timer.cancel()
                flight.task = asyncio.ensure_future(self._unsend(flight))

    async def land(self, grace: float) -> int:
        """After `stop`: waits up to `grace` seconds for calls under way, gives the rest up. How many it gave up; those stay
        `unknown`."""
        tasks = [flight.task for flight in self._flights.values() if flight.task]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        left = [flight for flight in self._flights.values() if flight.task and not flight.task.done()]
        for flight in left:
            assert flight.task is not None
            flight.task.cancel()
        if left:
            await asyncio.wait([flight.task for flight in left if flight.task])
            await self._give_back([flight.prepared.job for flight in left])
        await self._tally.flush()
        return len(left)
