"""One worker process: an event loop, a database thread, a Celery consumer, and the way they start and end together.

It does no job's work itself. SIGTERM or SIGINT: claim nothing more, finish what is under way within the grace, give the rest
back, exit 0; a second signal gives up at once, and what was under way stays `unknown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn, TypeVar

import redis.exceptions
import sqlalchemy.exc
from sqlalchemy.engine import Connection

from models import processes
from models.config import Config
from models.database import open_database
from models.errors import StorageError, TruckError
from models.queues import MAX_HOPS
from models.store import workers as worker_store
from worker import demise, logs, routing, warden
from worker.breaker import Breaker
from worker.candidates import Candidates
from worker.consumer import Consumer
from worker.day_counts import DayCounts
from worker.engine import Engine
from worker.http import HttpSender
from worker.janitor import DEAD_SECONDS, Janitor
from worker.kept_counting import KeptCounting
from worker.keys import KeyRing
from worker.last_minute import LastMinute
from worker.learned import LearnedLimits
from worker.lease import Lease
from worker.limits.limiter import Limiter, connect
from worker.limits.server import examine
from worker.limits.shapes import DayId
from worker.providers.registry import make_provider
from worker.recorder import Recorder
from worker.ruling import Ruling
from worker.runner import Runner
from worker.standings import Standings
from worker.turns import Turns
from worker.watchdog import PATIENCE, Watchdog

log = logging.getLogger("truckllm.worker")

T = TypeVar("T")

OPEN_FILES = 16_384

STORE_SECONDS = 15.0
"""How long an ending worker waits for a database that is away; its parent and the system have little patience."""

LEARNED_SECONDS = 3.0
"""How long the end of a process waits until its learned limits are stored."""
WITHDRAW_SECONDS = 5.0
"""How long one that is told to end while it starts waits to take its registration back."""

RING_AFTER = 0.1
"""Seconds until another provider is rung for a job passed on: its ending has to be stored first."""


def main(
    config: Config,
    database_url: str | None,
    redis_url: str,
    providers: Sequence[str] | None = None,
    *,
    parent_pipe: int | None = None,
    alone_for: int | None = None,
) -> NoReturn:
    """Runs one worker process until it is told to end, and ends it with exit code 0; 4 when the database can't be reached or Redis
    refuses the password, 2 when that server can never do.

    `providers` are those it serves (None: all). `parent_pipe` is a file descriptor whose end of file means that the parent
    has died. `alone_for`: the worker that started this process, to run suspects and end when there are none left.
    """
    logs.begin(config, database_url, redis_url)
    _allow_connections()
    served = list(providers) if providers else [provider.id for provider in config.providers]
    process = Process(config, database_url, redis_url, served, alone_for=alone_for)
    if parent_pipe is not None:
        threading.Thread(target=_die_with_parent, args=(parent_pipe,), daemon=True).start()
    code = process.run()
    # All is stored and said. Clearing the interpreter away would take half a second more, and whoever runs us waits for it.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk under the log doesn't make the work undone
            stream.flush()
    os._exit(code)


def _allow_connections() -> None:
    """Every call in flight is an open file, and some systems start with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _die_with_parent(pipe: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(pipe, 1):
            pass
    os.kill(os.getpid(), signal.SIGKILL)


class _ToldEarly(Exception):  # noqa: N818 - no error
    """A signal to end came before all was there that it takes to end in order."""


class Process:
    """What a worker process is made of. `served` are provider ids; `alone_for` as in `main`."""

    def __init__(
        self,
        config: Config,
        database_url: str | None,
        redis_url: str,
        served: Sequence[str],
        *,
        alone_for: int | None = None,
    ) -> None:
        self.config = config
        self.served = list(served)
        self.stopping = False
        self._begun = False
        self._database = open_database(database_url)
        self._redis_url = redis_url
        self._consumer = Consumer(redis_url, self.served, self.drain)
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="truckllm-loop", daemon=True)
        self._watchdog = Watchdog(self._loop, patience=PATIENCE if alone_for is None else warden.PATIENCE)
        self._runners: dict[str, Runner] = {}
        self._grace = config.worker.grace_seconds
        self._give_up = threading.Event()
        self._janitor: asyncio.Task[None] | None = None
        self._rung: dict[str, float] = {}
        self._alone_for = alone_for
        self._warden: warden.Warden | None = None
        self._recorder = Recorder(self._database, self._loop)
        self._lease = Lease(
            self._recorder, self.served, config.config_hash(), self._lost, self._drained, self._alone_for
        )

    def run(self) -> int:
        """Until told to end."""
        demise.expect(self._loop)
        self._thread.start()
        self._watchdog.start()
        try:
            for number in processes.end_signals():
                signal.signal(number, self._signalled)
            if (refused := self._begin()) is not None:
                self._begun = self.stopping = True
                return refused
            if self.stopping:
                raise _ToldEarly  # as before; somebody's `except` had it
            self._begun = True
        except _ToldEarly:
            with contextlib.suppress(StorageError, TimeoutError):
                self._on_loop(self._withdraw(), timeout=WITHDRAW_SECONDS)
            return 0
        if self._alone_for is None:
            log.info("worker %d serves %s", self._lease.worker_id, ", ".join(self.served))
            self._consumer.run(f"truckllm-{self._lease.worker_id}@{processes.host()}")
        else:
            log.info("worker %d runs suspects apart, for worker %d", self._lease.worker_id, self._alone_for)
            warden.volunteer()
            self._on_loop(warden.attend(self._runners, self.config, self._recorder, lambda: self.stopping))
        self._end()
        return 0

    def _begin(self) -> int | None:
        """Makes all its parts. The exit code if it can't."""
        try:
            self._on_loop(examine(self._redis_url))
        except TruckError as error:
            log.error("can't start: %s", error)
            return error.exit_code
        try:
            self._on_loop(self._start())
        except (StorageError, sqlalchemy.exc.SQLAlchemyError) as error:
            log.error("can't start: %s: %s", self._database.shown, str(error).splitlines()[0])
            return StorageError.exit_code
        return None

    async def _start(self) -> None:
        self._client = connect(self._redis_url)
        self._limiter = Limiter(
            self._client,
            seed=self._seed,
            seed_days=self._seed_days,
            wall=self._recorder.now,
            restarted=self._take_over,
            others=self._others,
            ruled=self._obey,
        )
        self._breaker = Breaker(self._client)
        self._sender = await HttpSender(max_response_bytes=self.config.worker.max_response_bytes).__aenter__()
        await self._lease.take()
        with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
            await self._limiter.meet(str(self._lease.worker_id))
        await self._warn_of_others()
        self._learned = LearnedLimits(self.config, self._client, self._recorder)
        standings = Standings(self._client)
        candidates = Candidates(self._breaker, standings, self._rests)
        for name in self.served:
            settings = self.config.provider(name)
            provider = make_provider(settings, self._sender.bind(settings))
            ring = KeyRing(self.config, provider, self._limiter, self._recorder)
            engine = Engine(self.config, provider, ring, self._limiter, self._recorder, candidates)
            self._runners[name] = Runner(
                engine,
                self._limiter,
                self._breaker,
                self._recorder,
                Turns(self.config, name, standings),
                worker_id=lambda: self._lease.worker_id,
                may_send=lambda: self._lease.fresh,
                attempt_id=self._lease.attempt_id,
                passed_on=self._passed_on,
                alone=self._alone_for is not None,
            )
        bookings = {name: runner.engine.bookings for name, runner in self._runners.items()}
        countings = {name: one.counting for name, one in bookings.items() if one.counting is not None}
        self._learned.counting = KeptCounting(self.config, countings, self._recorder)
        with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
            await self._take_over()
        rings = [runner.engine.ring for runner in self._runners.values()]
        self._ruling = Ruling(self._client, self.config.providers, rings, lambda: self._lease.worker_id)
        dialects = {name: runner.engine.provider for name, runner in self._runners.items()}
        self._last_minute = LastMinute(self._recorder, dialects, self._ruling.pools)
        self._day_counts = DayCounts(self._recorder, dialects, self._ruling.pools)
        with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
            await self._ruling.refresh()
        if self._alone_for is None:
            self._warden = warden.Warden(self.config, self.served, self._recorder, lambda: self._lease.worker_id)
        janitor = Janitor(
            self._lease, self._recorder, self._runners, self._ring, self._warden, self._ruling, self._learned
        )
        self._janitor = asyncio.ensure_future(janitor.run())

    def _rests(self, provider: str, model: str) -> bool:
        """Whether a provider that this process serves can make no call for a model."""
        runner = self._runners.get(provider)
        return runner is not None and not runner.engine.may_take(model)

    async def _warn_of_others(self) -> None:
        """Says when live workers go by another configuration."""
        mine = self.config.config_hash()

        def look(connection: Connection) -> list[int]:
            since = self._recorder.now() - DEAD_SECONDS
            rows = [
                row
                for row in worker_store.everyone(connection)
                if row["heartbeat_at"] > since and not worker_store.is_gone(row)
            ]
            return [row["id"] for row in rows if row["config_hash"] != mine]

        if others := await self._recorder.call(look):
            log.warning(
                "worker(s) %s run with another configuration than this one, whose limits hold for all from now on; restart them",
                ", ".join(map(str, others)),
            )

    def _signalled(self, number: int, _frame: object) -> None:
        if not self._begun:
            self._begun = self.stopping = True  # here, so that another signal raises nothing
            raise _ToldEarly
        if self.stopping:
            self._give_up.set()
            return
        self.stopping = True
        self._consumer.stop()
        self._loop.call_soon_threadsafe(self._stop_runners)

    def _stop_runners(self) -> None:
        for runner in self._runners.values():
            runner.stop()
        asyncio.ensure_future(self._lease.end())
        if self._warden is not None:
            self._warden.stop()
        self._consumer.wake()

    def _end(self) -> None:
        """Lets calls under way finish within the grace, stores everything, leaves."""
        self.stopping = True
        self._loop.call_soon_threadsafe(self._stop_runners)
        landing = [asyncio.run_coroutine_threadsafe(r.land(self._grace), self._loop) for r in self._runners.values()]
        began = time.monotonic()
        deadline = began + self._grace + 10
        while not all(one.done() for one in landing) and time.monotonic() < deadline and not self._hopeless(began):
            if self._give_up.wait(0.01):
                log.warning("told twice to end: calls under way stay unknown")
                break
        while (
            self._warden is not None
            and not (self._warden.ended or self._give_up.is_set())
            and time.monotonic() < deadline
        ):
            self._give_up.wait(0.02)
        hopeless = False
        if not self._give_up.is_set():
            # whatever is still held must be stored before this worker is known to be gone
            while any(r.held for r in self._runners.values()) and time.monotonic() < deadline:
                if hopeless := self._hopeless(began):
                    break
                time.sleep(0.02)
            with contextlib.suppress(StorageError, TimeoutError):
                self._on_loop(self._leave(), timeout=2 if hopeless else 10)
        if not self._recorder.stop(1.0 if self._give_up.is_set() else 8.0 if hopeless else 25.0):
            log.error("%d results could not be stored before the end; their calls stay unknown", self._recorder.waiting)
        self._watchdog.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2)
        log.info("worker %d has ended", self._lease.worker_id)

    def _hopeless(self, began: float) -> bool:
        """Whether the database has been away all the time that an end which began then can wait for it."""
        since = self._recorder.away_since
        return since is not None and time.monotonic() - max(began, since) > STORE_SECONDS

    async def _withdraw(self) -> None:
        """Takes back its registration, if it has come so far."""
        if self._lease.worker_id:
            await self._lease.leave()

    async def _leave(self) -> None:
        if self._janitor:
            self._janitor.cancel()
            with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError, StorageError):
                async with asyncio.timeout(LEARNED_SECONDS):
                    await self._learned.store()
        await self._lease.leave()
        await self._sender.close()
        await self._client.aclose()

    def _drained(self) -> None:
        if not self.stopping:
            os.kill(os.getpid(), signal.SIGTERM)  # the one way to end, on the one thread that hears signals

    def _lost(self) -> None:
        for runner in self._runners.values():
            runner.abandon()

    # Tickets

    def drain(self, provider: str, hops: int) -> None:
        """What a ticket asks for; runs on one of Celery's threads until the drain's budget is over."""
        self._lease.tickets += 1
        runner = self._runners.get(provider)
        if runner is None or self.stopping:
            return
        if runner.draining:
            if hops < MAX_HOPS:
                self._consumer.send(provider, hops + 1)
            return
        try:
            more = self._on_loop(runner.drain(self.config.worker.budget_seconds))
        except Exception as error:
            if demise.memory_is_short(error, alone=self._alone_for is not None):
                demise.end(error)
            log.exception("the drain of %s ended early; the janitor rings again", provider)
            return
        if more:
            self._consumer.send(provider, 0)

    def _passed_on(self, lane: str, excluded: str) -> None:
        """A job of a route is now for others: those that aren't at work are rung, at most once a second."""
        now = time.monotonic()
        for provider in routing.others(self.config, lane, "", excluded):
            runner = self._runners.get(provider)
            if (runner is None or not runner.draining) and now - self._rung.get(provider, float("-inf")) > 1.0:
                self._rung[provider] = now
                self._loop.call_later(RING_AFTER, self._ring_soon, provider)

    def _ring_soon(self, provider: str) -> None:
        asyncio.ensure_future(self._ring(provider))

    async def _ring(self, provider: str) -> None:
        await asyncio.to_thread(self._consumer.send, provider, 0)

    # Threads

    def _on_loop(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    async def _take_over(self) -> None:
        """Takes over which keys are out of use and which limits were learned, and stores both in Redis. Raises when that is away; keys are
        taken over all the same."""
        parts = [*(r.engine.take_over() for r in self._runners.values()), self._learned.take_over()]
        for error in filter(None, await asyncio.gather(*parts, return_exceptions=True)):
            raise error

    async def _obey(self) -> None:
        await self._ruling.refresh()

    async def _others(self) -> list[str]:
        """The other workers, as the limiter is told of them; those that have died may be among them."""
        rows = await self._recorder.call(worker_store.everyone)
        return [str(row["id"]) for row in rows if row["id"] != self._lease.worker_id and not worker_store.is_gone(row)]

    async def _seed(self, buckets: Sequence[str]) -> dict[str, list[tuple[float, int]]]:
        """The last minute of the ledger, for a Redis that doesn't know it."""
        return await self._last_minute.of(buckets)

    async def _seed_days(self, days: Sequence[DayId]) -> dict[DayId, int]:
        """Returns the calls of days in the ledger, for a Redis that doesn't have them."""
        return await self._day_counts.of(days)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
