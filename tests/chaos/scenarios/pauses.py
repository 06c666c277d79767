"""A machine that stands still for 90 s under load: its rows are rescued, what it brings late is fenced, and it sends nothing as if no time had passed."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time

import sqlalchemy as sa

from models.states import Outcome
from models.tables import attempts, workers
from tests.chaos.ground import NUMBERS, Ground, Worker
from tests.chaos.registry import scenario

STILL = 90.0


def number_of(ground: Ground, worker: Worker) -> int:
    """A worker's present number in the database."""
    return ground.number(sa.select(workers.c.id).where(workers.c.pid == worker.pid))


def stop_at_work(ground: Ground, worker: Worker) -> None:
    """SIGSTOP while calls are out, but not while it holds SQLite's only lock: that would stop everybody, as it would under any program."""
    while True:
        ground.until(lambda: ground.calling(worker) > 3, "the worker to have calls out", 60)
        worker.process.send_signal(signal.SIGSTOP)
        if ground.kind != "sqlite":
            return
        with contextlib.closing(sqlite3.connect(str(sa.make_url(ground.url).database), timeout=3)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                worker.process.send_signal(signal.SIGCONT)
                ground.quiet(ground.rng.uniform(0.05, 0.5))
                continue
            other.execute("ROLLBACK")
            return


@scenario("paused-machine")
def paused_machine(ground: Ground) -> None:
    """SIGSTOP for 90 s, then SIGCONT: rescued by another, late replies fenced and in the ledger, nothing sent on an old lease."""
    ground.start(latency=2.0, rpm=900)
    ground.submit(ground.some(2400))
    sleeper, other = ground.start_worker(), ground.start_worker()
    stop_at_work(ground, sleeper)
    stopped = time.time()
    ground.strikes.append("a worker was stopped")
    out = ground.calling(sleeper)
    ground.allowed += out
    old = number_of(ground, sleeper)
    ground.until(
        lambda: not number_of(ground, sleeper), "the one that stands still to be taken for dead", 80, every=0.2
    )
    noticed = time.time() - stopped
    ground.promise(ground.running(other) >= 0 and other.alive, "the other worker ended")
    ground.quiet(max(0.0, STILL - noticed))
    sleeper.process.send_signal(signal.SIGCONT)
    ground.until(lambda: number_of(ground, sleeper), "it to register again", 30)
    fresh = number_of(ground, sleeper)
    ground.promise(fresh != old, "it goes on under its old number")
    ground.submit(ground.some(600))
    ground.until(lambda: ground.calling(sleeper) > 0, "it to work again", 60)
    ground.finish(180)
    mine = sa.select(attempts.c.outcome, attempts.c.started_at).where(
        attempts.c.id >= old * NUMBERS, attempts.c.id < (old + 1) * NUMBERS
    )
    calls = ground.rows(mine)
    late = sum(float(row["started_at"]) > stopped + 1 for row in calls)
    ground.promise(not late, f"{late} calls were sent on waking, on an old lease")
    fenced = sum(row["outcome"] == Outcome.FENCED for row in calls)
    ground.promise(fenced > 0, "no late reply was fenced")
    settled = fenced + sum(row["outcome"] == Outcome.UNKNOWN for row in calls)
    ground.promise(settled <= out, f"{settled} calls are fenced or unknown, {out} were under way")
    ground.remarks.append(
        f"taken for dead after {noticed:.0f} s; of {out} calls under way {fenced} replies came late and were fenced"
    )
