"""One provider's drain: claim → reserve → announce → launch → record, topping up until nothing is claimable or time is over.

It decides about starting, never about what a reply means (`worker.engine`) or what comes next (`worker.failover`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

import redis.exceptions
from sqlalchemy.engine import Connection

from models.errors import StorageError
from models.store import batches as batch_store
from models.store import claims, recoveries
from models.store import jobs as job_store
from models.store import suspects as suspect_store
from models.store.claims import Claimed
from models.store.cooldowns import Cooldown
from worker import routing
from worker.breaker import Breaker
from worker.engine import Engine
from worker.flights import Flights
from worker.limits.limiter import MOST_WANTS, Grant, Limiter, TooLarge, Wait
from worker.limits.server import describe, is_script_error
from worker.logs import Seldom
from worker.prepared import NoKey, Prepared
from worker.recorder import Recorder
from worker.scouts import Scouts
from worker.tally import Tally
from worker.turns import Turns
from worker.waiting import Waiting

log = logging.getLogger("truckllm.runner")

LOOK_SECONDS = 1.0
"""How often it is looked whether the batches of what waits are still to run."""
HOLD_SECONDS = 2.0
"""A claimed job that may not start within this goes back, so that other workers and a cancel can have it."""
LEAST_PAUSE = 0.2
LEAST_ASK = 16
FEW_WANTS = 8
MOST_PAUSE = 1.0
WAKE_SECONDS = 0.5
MOST_WAITING = 4 * MOST_WANTS
IDLE_SECONDS = 0.25
PASSED_SECONDS = 3.0
"""So long claims begin behind jobs that were passed over; who has come back among those meanwhile waits as long."""
REPORT_SECONDS = 3.0
"""Calls in flight are reported at least so often; the limiter forgets them after ten seconds."""
COOLING_SECONDS = 5.0
"""After so long it is looked again whether a model that cools down for longer still does: a person may have ended it."""


class Runner:
    """The drain of one provider in one process.

    `worker_id` gives the worker's present number, `may_send` says whether its lease is fresh, `attempt_id` numbers calls,
    `passed_on` (lane, excluded) is told of jobs that others of their route are to take. `alone`: it takes suspects, and nothing else.
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
        passed_on: Callable[[str, str], None],
        alone: bool = False,
    ) -> None:
        self.engine = engine
        self.draining = False
        self._limiter = limiter
        self._breaker = breaker
        self._recorder = recorder
        self._turns = turns
        self._worker_id = worker_id
        self._may_send = may_send
        self._concurrency = engine.config.worker.concurrency
        self._claim_jobs = claims.claim
        self._alone = alone
        engine.alone = alone
        if alone:
            self._concurrency = min(self._concurrency, suspect_store.MOST_TOGETHER)
            self._claim_jobs = suspect_store.claim
        self._looked_at = float("-inf")
        self._moved_at = float("-inf")  # when a call last started or ended
        self._asks: Prepared | None = None  # the one call under way that asks whether the address is right by now
        self._ask = MOST_WANTS
        self._woken_at = float("-inf")
        self._claimable: float | None = 0.0
        self._ended_without_call = 0
        self._stopping = False
        self._seldom = Seldom()
        self._landed = asyncio.Event()
        self._news = asyncio.Event()
        engine.shut = lambda: breaker.shut(engine.name)
        self.scouts = Scouts(engine, breaker)
        self._flights = Flights(
            engine,
            recorder,
            Tally(engine.name, limiter, breaker, recovered=self._recovered),
            may_send=may_send,
            shut=engine.shut,
            attempt_id=attempt_id,
            landed=self._land,
            passed_on=passed_on,
        )
        self._waiting = Waiting(limiter, self._flights.give_back)
        self._passed: claims.Passed = {}
        self._passed_by: set[tuple[str, str]] = set()
        self._passed_since = float("-inf")
        self._full: set[tuple[str, str]] = set()  # lane and model of jobs that wait until a call in flight ends
        self._reported_at = float("-inf")
        self._in_flight_binds = False
        self._cooling: dict[tuple[str, str], str] = {}  # lane and model of jobs whose model (here) cools down for long

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def held(self) -> dict[int, int]:
        """Jobs that this process answers for: id → epoch, until their ending is stored."""
        return self._flights.held

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
            await self._return_waiting(keep_holds=True)

    async def _round(self, deadline: float) -> bool:
        """One turn. False when there is nothing more to do now."""
        if not (self._recorder.ready and self._may_send()):
            await self._return_waiting()
            await self._pause(WAKE_SECONDS)
            return True
        if self.engine.rests:
            await self._turns.full(self.engine.latency_ms)
            return False
        await self._report_in_flight()
        free = self._concurrency - len(self._flights)
        if free <= 0:
            await self._occupied()
            await self._pause(IDLE_SECONDS, landing=True)
            return True
        if self._flights.held_back and not self._waiting.startable():
            await self._pause(IDLE_SECONDS, landing=True)
            return True
        wanted = min(min(free, self._ask) - len(self._waiting.startable()), MOST_WAITING - len(self._waiting))
        if wanted > 0 and not await self._claim(wanted):
            return True
        if not self._waiting.startable():
            if self._ended_without_call:
                self._ask = MOST_WANTS
                return True
            if self._waiting.slow.keys() - self._cooling.keys():
                await self._pause(LEAST_PAUSE, landing=bool(self._full))
                return True
            return await self._idle(deadline)
        seconds = await self._start()
        if seconds > 0:
            # jobs for other models, or lifted quarantines, may be startable before this one is
            await self._pause(min(seconds, MOST_PAUSE, max(0.0, deadline - time.monotonic()) + LEAST_PAUSE))
        return True

    async def _report_in_flight(self) -> None:
        """Reports calls in flight where nothing has been asked for of late, so that they still count."""
        now = time.monotonic()
        if now - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = now
        if flying := self.engine.in_flight.report()[0]:
            with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
                await self._limiter.report(self.name, flying)

    async def _occupied(self) -> None:
        """Publishes that no place is free here. An open breaker and models that cool down are published as ever."""
        if self._alone:  # its places are for suspects only
            return
        if self.engine.shut():
            await self._turns.full(self.engine.latency_ms)
        else:
            self._skip_cooling()
            await self._turns.occupied(self.engine.latency_ms, self._moved_at)

    async def _idle(self, deadline: float) -> bool:
        if self._flights:
            await self._pause(IDLE_SECONDS, landing=True)
            return True
        due, scouting = self._claimable, self.scouts.wanted
        wait = None if due is None else due - self._recorder.now()
        if wait is None or (wait > deadline - time.monotonic() and not scouting):
            return False
        if scouting:
            await self._turns.full(self.engine.latency_ms)
        await self._pause(min(max(wait, LEAST_PAUSE if scouting else WAKE_SECONDS), MOST_PAUSE))
        return True

    async def _pause(self, seconds: float, *, landing: bool = False) -> None:
        """Waits; ends early when the runner stops or its provider is back, or (landing) when a call has come back."""
        event = self._landed if landing else self._news
        if not self._stopping:
            event.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    # Claim

    async def _claim(self, most: int) -> bool:
        """Claims and prepares up to `most` jobs. False when the database didn't answer."""
        now = time.monotonic()
        wake = now - self._woken_at >= WAKE_SECONDS
        room = self._waiting.room
        worker_id = self._worker_id()
        self._skip_cooling()
        lanes = await self._turns.open_lanes(self.engine.latency_ms)
        withheld = [lane for lane in self._turns.lanes if lane not in lanes]
        if any(self._turns.takes_turns(lane) for lane in lanes):
            most = min(most, routing.ROUND)

        def claim(connection: Connection) -> tuple[list[Claimed], float | None]:
            at = self._recorder.now()
            if wake:
                job_store.wake(connection, self._turns.lanes, at)
            claimed = self._claim_jobs(
                connection,
                provider=self.name,
                lanes=lanes,
                worker_id=worker_id,
                most=most,
                most_bytes=max(room, 1),
                now=at,
                skip=skip,
                withheld=withheld,
                passed=self._passed,
            )
            if claimed or (withheld and job_store.waiting_lanes(connection, withheld)):
                return claimed, at
            due = job_store.next_due(connection, self._turns.lanes), self.scouts.send(connection, self._turns.lanes, at)
            return claimed, min((one for one in due if one is not None), default=None)

        if room <= 0 and self._flights:
            if not self._waiting:
                await self._pause(IDLE_SECONDS, landing=True)
            return bool(self._waiting)
        skip = list(self._waiting.slow)
        if set(skip) != self._passed_by or now - self._passed_since >= PASSED_SECONDS:
            self._passed, self._passed_by, self._passed_since = {}, set(skip), now
        try:
            claimed, self._claimable = await self._recorder.call(claim)
        except StorageError:
            await self._pause(WAKE_SECONDS)
            return False
        if wake:
            self._woken_at = now
        if worker_id != self._worker_id():
            return False  # declared dead meanwhile: these jobs are somebody else's
        self._flights.held |= {job.id: job.epoch for job in claimed}
        self._ended_without_call = 0
        await self._prepare([(job, now) for job in claimed])
        await self._turns.count(claimed)
        return True

    def _skip_cooling(self) -> None:
        """Leaves jobs alone whose model cools down for long, and the lanes' others to better candidates, for as long as that is so."""
        now = time.monotonic()
        for what, model in list(self._cooling.items()):
            if seconds := self.engine.cools(model):
                self._waiting.slow[what] = now + min(seconds, COOLING_SECONDS)
                self._turns.full_models[model] = self._waiting.slow[what]
            else:
                del self._cooling[what]
                self._waiting.slow.pop(what, None)

    async def _prepare(self, claimed: Sequence[tuple[Claimed, float]]) -> None:
        """Puts claimed jobs (with when that was) among those that wait for the limiter, or lets them go."""
        back: list[Claimed] = []
        for job, since in claimed:
            try:
                prepared = self.engine.prepare(job, since)
            except Exception as error:  # a bug of ours must not take those with it that were claimed together
                log.exception("job %d could not be prepared", job.id)
                prepared = self.engine.unready(job, error)
            if isinstance(prepared, Prepared):
                self._waiting.add(prepared)
            elif isinstance(prepared, NoKey):
                back.append(job)
            else:
                self._flights.store(prepared)
                self._ended_without_call += 1
        if back:
            await self._flights.give_back(back, snooze=WAKE_SECONDS)

    async def _reconsider(self) -> None:
        """Prepares anew what waits, where a key or a model has turned out since not to do, or to do again."""
        if stale := self._waiting.take(lambda prepared: not self.engine.stands(prepared)):
            for prepared in stale:
                self._waiting.let_go(prepared)
            await self._prepare([(prepared.job, prepared.since) for prepared in stale])

    # Reserve, announce, launch

    async def _start(self) -> float:
        """Books and launches what may start within the next second. Seconds to wait before the next turn."""
        await self._reconsider()
        await self._return_stopped()
        startable = self._waiting.startable()
        if not startable:
            return 0.0
        try:
            on_trial = self.engine.endpoint.on_trial
            if on_trial and self._asks is not None:
                allowed, wait = 0, IDLE_SECONDS
            else:
                allowed, wait = await self._breaker.admit(self.name, 1 if on_trial else len(startable))
            if allowed <= 0:
                await self._turns.full(self.engine.latency_ms)
                await self._return_waiting()
                self._ask = 1
                return max(wait, LEAST_PAUSE)
            # where calls in flight are what all wait for, few places are free at a time
            asking = startable[: min(allowed, FEW_WANTS if self._in_flight_binds else MOST_WANTS)]
            flying, pause = self.engine.in_flight.report()
            self._reported_at = time.monotonic()
            answers = await self._limiter.reserve([prepared.want for prepared in asking], flying, pause)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            if is_script_error(error):
                if self._seldom.news("a script failed"):
                    log.error("%s: a script failed in Redis, no new call starts: %s", self.name, describe(error))
            elif self._seldom.news("Redis is away"):
                log.warning("%s: Redis is away, no new call starts: %s", self.name, describe(error))
            await self._return_waiting(keep_holds=True)
            return 1.0
        self._seldom.over("Redis is away")
        self._seldom.over("a script failed")
        granted: list[tuple[Prepared, Grant]] = []
        shared: list[float] = []  # waits that concern every model
        apart = False
        back: list[Prepared] = []
        later: list[Prepared] = []
        spent: dict[str, Wait] = {}  # by model, where a limit by day is used up
        over: list[Cooldown] = []
        now = time.monotonic()
        by_model, slow = self.engine.ring.by_model, self._waiting.slow
        self._full.clear()
        self._in_flight_binds = any(isinstance(one, Wait) and one.reason == "in_flight" for one in answers)
        for prepared, answer in zip(asking, answers, strict=True):
            self._waiting.holding.discard(prepared.job.id)
            match answer:
                case Grant():
                    granted.append((prepared, answer))
                    over += self.engine.day_waits.granted(answer, prepared.request.model)
                    self._turns.full_models.pop(prepared.request.model, None)
                case TooLarge():
                    self._waiting.let_go(prepared)
                    self._refuse(prepared, answer)
                case Wait():
                    of_model = by_model or answer.reason in ("model", "day", "in_flight")
                    if answer.reason == "in_flight":
                        self._full.add(prepared.waits_as)
                    if answer.reason == "day":
                        if prepared.request.model not in spent:
                            self.engine.day_waits.hold(prepared.request.model, answer)
                        spent[prepared.request.model] = answer
                    until = now + min(max(answer.seconds, LEAST_PAUSE), COOLING_SECONDS)
                    if of_model:
                        apart = True
                        self._turns.full_models[prepared.request.model] = until
                    else:
                        shared.append(answer.seconds)
                    if answer.held:
                        self._waiting.holding.add(prepared.job.id)
                    elif of_model:
                        # what waits for one model must not stand before what could start on another
                        slow[prepared.waits_as] = min(until, slow.get(prepared.waits_as, until))
                        if answer.reason in ("model", "day") and self.engine.cools(prepared.request.model):
                            self._cooling[prepared.waits_as] = prepared.request.model
                    waited = now - prepared.since + answer.seconds > HOLD_SECONDS
                    (back if waited and not answer.held else later).append(prepared)
        gone = {prepared.job.id for prepared in asking} - {prepared.job.id for prepared in later}
        self._waiting.take(lambda prepared: prepared.job.id in gone)
        # where a limit is for single models, that one waits says nothing of the others
        regained = not (self._turns.room or shared)
        self._turns.room = not shared
        self._ask = min(MOST_WANTS, self._ask * 2) if not (shared or apart) else max(1, len(granted) * 2)
        if granted:
            if on_trial:
                self._asks = granted[0][0]
            self._moved_at = time.monotonic()
            self._flights.board(granted)
        if spent or over:
            await self.engine.day_waits.store(spent.values(), over)
        if not self._turns.room:  # told now: while this waits it claims nothing, so it would not say it for seconds
            await self._turns.full(self.engine.latency_ms)
        elif regained:
            await self._turns.has_room(self.engine.latency_ms)
        await self._waiting.give_back(back)
        if apart and not shared:
            self._ask = max(self._ask, LEAST_ASK)
            return LEAST_PAUSE if self._waiting.holding else 0.0
        return max(min(shared), LEAST_PAUSE) if shared else 0.0

    def _refuse(self, prepared: Prepared, answer: TooLarge) -> None:
        """A job bigger than a whole minute: for good, unless a key that is out of use just now has more."""
        if self.engine.ring.some_out:
            asyncio.ensure_future(self._flights.give_back([prepared.job], snooze=MOST_PAUSE))
        else:
            self._flights.store(self.engine.too_large(prepared.job, answer))

    def _recovered(self) -> None:
        """The provider is back: who waits because it had failed needn't wait any longer."""
        log.info("%s answers again", self.name)
        self._news.set()
        asyncio.ensure_future(self._hasten())

    async def _hasten(self) -> None:
        most = 1000
        with contextlib.suppress(StorageError):
            while most == await self._recorder.call(
                lambda connection: recoveries.hasten(
                    connection, self.name, self._turns.lanes, self._recorder.now(), most
                )
            ):
                pass
        self._claimable = self._recorder.now() + recoveries.SPREAD_SECONDS

    # Letting go

    def _land(self, prepared: Prepared) -> None:
        self._waiting.let_go(prepared)
        if prepared.waits_as in self._full:  # its place is free
            self._full.discard(prepared.waits_as)
            self._waiting.slow.pop(prepared.waits_as, None)
        if self._asks is prepared:
            self._asks = None
        self._moved_at = time.monotonic()
        self._landed.set()

    async def _return_waiting(self, *, keep_holds: bool = False) -> None:
        """Gives back all that waits. `keep_holds`: somebody will ask for it again soon, and goes on with its holds."""
        await self._waiting.give_back(self._waiting.take(lambda _: True), keep_holds=keep_holds)

    async def _return_stopped(self) -> None:
        """Gives back what belongs to a batch that was paused or cancelled. Only what holds a bucket waits for so long that it
        has to be looked at, and it would keep others out for nothing."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS or not self._waiting.older_than(LOOK_SECONDS):
            return
        self._looked_at = now
        try:
            runnable = {row["id"] for row in await self._recorder.call(batch_store.runnable)}
        except StorageError:
            return
        await self._waiting.give_back(self._waiting.take(lambda one: one.job.batch_id not in runnable))

    def abandon(self) -> None:
        """This worker was declared dead: what it held and didn't send is somebody else's; what it sent will be fenced."""
        self._flights.let_go({prepared.job.id: prepared.job.epoch for prepared in self._waiting.abandon()})

    def stop(self) -> None:
        """Starts nothing more."""
        self._stopping = True
        self._news.set()
        self._landed.set()
        self._flights.stop()

    async def land(self, grace: float) -> int:
        """After `stop`: waits up to `grace` seconds for calls under way. How many it gave up; those stay `unknown`."""
        return await self._flights.land(grace)
