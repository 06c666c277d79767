"""A machine that stands still for 90 s under load: its rows are rescued, what it brings late is fenced, and it sends nothing as if no time had passed."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time

import sqlalchemy as sa

from models.request import SIMPLE
from models.states import Outcome
from models.tables import attempts, job_inputs
from tests.acceptance.truth import prompt_of
from tests.chaos.ground import NUMBERS, Ground, Stop, Worker
from tests.chaos.registry import scenario
from worker.sandbox.replies import prompt_sha

STILL = 90.0


def open_calls(ground: Ground, worker: Worker) -> int:
    """How many of its calls the sandbox is about to answer: those announced and not sent are not among them."""
    number = ground.number_of(worker)
    query = sa.select(job_inputs.c.body).join(attempts, attempts.c.job_id == job_inputs.c.job_id)
    its = (attempts.c.id >= number * NUMBERS, attempts.c.id < (number + 1) * NUMBERS)
    asked = ground.rows(query.where(attempts.c.outcome == Outcome.UNKNOWN, *its))
    waiting = {call["prompt_sha"] for call in ground.log() if call["finished_at"] is None}
    return sum(prompt_sha(prompt_of(row["body"], SIMPLE)) in waiting for row in asked)


def locked(ground: Ground) -> bool:
    """Whether somebody keeps SQLite's only lock."""
    if ground.kind != "sqlite":
        return False
    with contextlib.closing(sqlite3.connect(str(sa.make_url(ground.url).database), timeout=3)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        other.execute("ROLLBACK")
        return False


def stop_at_work(ground: Ground, worker: Worker) -> tuple[float, int]:
    """SIGSTOP while calls are out, but not while it holds SQLite's only lock: that would stop everybody, as it would under any program.
    When that was (unix seconds), and how many calls had been announced."""
    while True:
        ground.until(lambda: ground.calling(worker) > 3, "the worker to have calls out", 60)
        worker.process.send_signal(signal.SIGSTOP)
        stopped = time.time()
        if open_calls(ground, worker) > 3 and not locked(ground):
            return stopped, ground.calling(worker)
        worker.process.send_signal(signal.SIGCONT)
        ground.quiet(ground.rng.uniform(0.05, 0.5))


@scenario("paused-machine")
def paused_machine(ground: Ground) -> None:
    """SIGSTOP for 90 s, then SIGCONT: rescued by another, late replies fenced and in the ledger, nothing sent on an old lease."""
    ground.start(latency=2.0, rpm=900)
    ground.submit(ground.some(2400))
    sleeper, other = ground.start_worker(), ground.start_worker()
    stopped, out = stop_at_work(ground, sleeper)
    ground.strikes.append("a worker was stopped")
    old = ground.number_of(sleeper)
    ground.stops.append(Stop(stopped, old))
    ground.until(lambda: not ground.number_of(sleeper), "the one that stands still to be taken for dead", 80, every=0.2)
    noticed = time.time() - stopped
    ground.promise(ground.running(other) >= 0 and other.alive, "the other worker ended")
    ground.quiet(max(0.0, STILL - noticed))
    sleeper.process.send_signal(signal.SIGCONT)
    ground.until(lambda: ground.number_of(sleeper), "it to register again", 30)
    fresh = ground.number_of(sleeper)
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
