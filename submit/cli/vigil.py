"""What a run says while it waits, and how it ends its stack: who is missing, who fails, and when nothing can be stored.

It only looks and tells; the batch goes on without it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from models.config import Config
from models.database import Database, home, storage_errors
from models.errors import StorageError, UsageError
from models.store import batches, jobs, workers
from models.wording import counted, duration
from submit import bell
from submit.cooldowns import sentence as told
from submit.obstacles import lost_lanes, lost_sentence
from submit.progress import Snapshot
from submit.pulse import Pulse
from submit.stack import WORKER_LOG, Stack
from submit.troubles import Trouble

LOOK_SECONDS = 3.0
"""How often a run without workers of its own looks whether somebody serves its batch."""

SETTLE_SECONDS = 10.0
"""How long workers may take to start before a run says that there are none."""

IDLE_SECONDS = 10.0
"""How long workers with nothing in flight may take to end."""

PULSE_SECONDS = 1.0

HOUR_SECONDS = 3600.0

AILING_SECONDS = 900.0
"""How long a run waits for workers or a database that don't answer: what waits to be stored meanwhile is paid for."""

STORE_SECONDS = 40.0
"""How long workers may take to end when they can't store what they have; they give up by themselves before."""


class GivenUpError(Exception):
    """The workers or the database didn't answer for too long."""


class Vigil:
    """Of one run. `stack` is None where workers elsewhere do the work; `tell` says a sentence to people."""

    def __init__(self, database: Database, config: Config, stack: Stack | None, tell: Callable[[str], None]) -> None:
        self._database = database
        self._config = config
        self._stack = stack
        self._tell = tell
        folder = Path(database.url.database).parent if database.sqlite and database.url.database else None
        self._pulse = Pulse(folder, home() / WORKER_LOG if stack is not None else None)
        self._started = self._looked = self._felt = time.monotonic()
        self._lanes: set[str] = set()
        self._said: set[str] = set()
        self._cooling: set[tuple[str, str, bool]] = set()
        self._ailing: str | None = None
        self._ailing_since = 0.0
        self._heard = self._started
        self._ended = 0
        self._unheard: str | None = None

    @property
    def _owner(self) -> Stack | None:
        """The stack, if it is this run's own."""
        return self._stack if self._stack is not None and self._stack.owner else None

    def begin(self, batch_id: int, lanes: set[str]) -> None:
        """Says what is to be known of a batch with queued jobs in these lanes. Raises UsageError when none of them is configured."""
        self._lanes = lanes
        with storage_errors(self._database), self._database.read() as connection:
            lost, all_lost = lost_lanes(connection, batch_id, self._config)
            others = batches.others(connection, batch_id)
        if lost:
            sentence = lost_sentence(batch_id, lost)
            if all_lost:
                raise UsageError(sentence)
            self._tell(f"warning: {sentence}")
        if others is not None and self._stack is not None and lanes:  # without jobs of its own nothing starts
            number, waiting = others
            named = "another batch is" if number == 1 else f"{number:,} other batches are"
            self._tell(f"note: {named} queued here ({counted(waiting, 'job')}), and worked on too while this runs")

    def tick(self, seen: Snapshot) -> Snapshot:
        """Looks after the stack and the workers, and says what is new; the snapshot as it should be shown.

        Raises GivenUpError, and what `Stack.tick` raises.
        """
        self._tick_stack()
        now = time.monotonic()
        joined = self._stack is not None and now - self._started < SETTLE_SECONDS
        if self._owner is not None or joined:
            # workers start, or are started again: its own, or those of the run that it has joined
            seen = replace(seen, unserved=None)
        if seen.finished:
            return seen
        self._say_if_no_failover(seen)
        self._say_what_cools_down(seen)
        with contextlib.suppress(StorageError):  # the next snapshot fails, too, and is tried again
            if now - self._felt >= PULSE_SECONDS:
                self._felt = now
                self._feel(seen.running, now)
            if self._owner is None and now - self._looked >= LOOK_SECONDS and now - self._started >= SETTLE_SECONDS:
                self._looked = now
                self._say_who_is_missing()
        if self._stack is None and self._config.redis_url is not None and now - self._heard >= LOOK_SECONDS:
            self._unheard = bell.unheard(self._config.redis_url) if seen.ended == self._ended else None
            self._heard, self._ended = now, seen.ended
        for sentence in filter(None, (self._ailing, self._unheard)):
            seen = replace(seen, eta_seconds=None, troubles=(*seen.troubles, Trouble("", sentence)))
        return seen

    def unreadable(self, error: StorageError) -> None:
        """Says that the database couldn't be read. Raises GivenUpError when that has lasted too long."""
        self._tick_stack()
        self._ails(f"the database can't be read: {error}; it is tried again")

    def end(self) -> None:
        """Says what is waited for at the end; workers that need no grace are ended at once."""
        stack = self._owner
        if stack is None:
            return
        if self._ailing is not None:
            self._tell("ending: the workers try for up to 20 s to store what they have")
            stack.stop(STORE_SECONDS)
            self._say_what_is_lost()
        elif running := self._in_flight():
            self._tell(f"ending: {running:,} calls in flight are finished first (Ctrl-C gives them up)")
        else:
            stack.stop(IDLE_SECONDS)

    def _tick_stack(self) -> None:
        if self._stack is not None:
            for told in self._stack.tick():
                self._tell(f"note: {told}")

    def _feel(self, running: int, now: float) -> None:
        with storage_errors(self._database), self._database.read() as connection:
            beats = {int(row["id"]): int(row["beat"]) for row in workers.everyone(connection)}
        self._ails(self._pulse.look(beats, running, now) if beats or self._owner is not None else None)

    def _ails(self, ailing: str | None) -> None:
        before, self._ailing = self._ailing, ailing
        if ailing is None:
            if before is not None:
                self._tell("note: the database and the workers answer again; it goes on")
        elif before is None:
            self._ailing_since = time.monotonic()
            self._tell(f"warning: {ailing}")
        elif time.monotonic() - self._ailing_since > AILING_SECONDS:
            raise GivenUpError(f"given up after {duration(AILING_SECONDS)}: {ailing}")

    def _say_if_no_failover(self, seen: Snapshot) -> None:
        """When a provider is in trouble its jobs wait for it: that is the moment to know what a route would do."""
        direct = [trouble.provider for trouble in seen.troubles if trouble.provider in self._lanes]
        direct = [name for name in direct if name not in self._config.routes]
        if direct and not any(said.startswith("note: no route") for said in self._said):
            self._tell_once(f"note: no route for {direct[0]}: its jobs wait for it and go to no other provider")

    def _say_what_cools_down(self, seen: Snapshot) -> None:
        """Once for each key and model, and again where that has become a matter of hours."""
        for one in seen.cooldowns:
            what = (one.pool, one.model, one.until - one.since > HOUR_SECONDS)
            if what not in self._cooling:
                self._cooling.add(what)
                self._tell(f"note: {told(one)}")

    def _say_who_is_missing(self) -> None:
        with storage_errors(self._database), self._database.read() as connection:
            now = self._database.now(connection)
            serving = bell.live_workers(connection, now)
            hashes = {row["config_hash"] for row in workers.everyone(connection) if bell.is_live(row, now)}
        for lane in sorted(self._lanes):
            providers = bell.providers_of(self._config, lane)
            if providers and not any(provider in serving for provider in providers):
                names = " or ".join(providers)
                self._tell_once(f"no live worker serves {names}: start one with `truckllm worker`; this waits for it")
        if hashes - {self._config.config_hash()}:
            self._tell_once("note: a live worker works by another configuration than this run's")

    def _in_flight(self) -> int:
        with storage_errors(self._database), self._database.read() as connection:
            return sum(jobs.in_flight(connection, row["id"]) for row in batches.runnable(connection))

    def _say_what_is_lost(self) -> None:
        try:
            lost = self._in_flight()
        except StorageError as error:
            self._tell(f"how many results could not be stored isn't known: {error}")
            return
        if lost:
            self._tell(
                f"{lost:,} results could not be stored: their calls stay unknown (maybe billed), and the next run makes them again"
            )

    def _tell_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._tell(sentence)
