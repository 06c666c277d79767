"""Machines whose clocks are wrong or are set while they work: no job waits for it, no call is made twice, no limit is broken."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import sqlalchemy as sa

from models.states import JobStatus
from models.tables import attempts, jobs, workers
from tests.chaos.ground import Ground
from tests.chaos.registry import scenario

SKEWED = Path(__file__).parent.parent / "skewed.py"
HOUR = 3600.0
CREW = sa.select(workers.c.id).order_by(workers.c.id)


def skewed(steps: str) -> list[str]:
    """The command `truckllm` in a process whose wall clock is wrong in these steps (of `tests.chaos.skewed`)."""
    return [sys.executable, "-P", str(SKEWED), steps]


def crew_ids(ground: Ground) -> list[int]:
    return [int(row["id"]) for row in ground.rows(CREW)]


def limited(ground: Ground, rpm: int) -> None:
    """Two providers that are out of order now and then, so that jobs are told to wait; keys held to their limits, one of them of tokens."""
    tokens = 100 * rpm
    accounts = [
        {"provider": "openai", "key": "sk-chaos-openai-1", "tpm": tokens, "burst_seconds": 3},
        {"provider": "claude", "key": "sk-chaos-claude-1", "rpm": rpm, "burst_seconds": 3},
    ]
    ground.start(
        rpm=rpm,
        limits={"openai": {"limit_tokens_per_min": tokens}},
        sandbox={
            "accounts": accounts,
            "faults": [{"kind": "overloaded", "rate": 0.1, "contains": "question", "times": 1}],
        },
    )


@scenario("skewed-clocks", databases=("postgresql",))
def skewed_clocks(ground: Ground) -> None:
    """One worker an hour ahead, one an hour behind, one right: the ledger's times are the database's, nobody is taken for dead."""
    limited(ground, 600)
    ground.submit(ground.some(900, least=90))
    for steps in (f"0:{HOUR}", f"0:{-HOUR}", "0:0"):
        ground.start_worker(command=skewed(steps))
    ground.until(lambda: len(crew_ids(ground)) == 3, "three workers", 60)
    known = crew_ids(ground)
    ground.finish(180)
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead for its clock")
    started = [float(row["started_at"]) for row in ground.rows(sa.select(attempts.c.started_at))]
    calls = [float(row["at"]) for row in ground.log()]
    wrong = sum(not min(calls) - 5 < at < max(calls) + 5 for at in started)
    ground.promise(not wrong, f"{wrong} calls are in the ledger by a wrong clock")
    refused = sum(row["status"] == 429 for row in ground.log())
    ground.promise(not refused, f"{refused} calls were refused for a limit")


@scenario("clock-steps")
def clock_steps(ground: Ground) -> None:
    """The clock of the workers' machine is set forward and back by an hour while they work: no minute has more than its limit, and nothing waits an hour."""
    limited(ground, 600)
    ground.submit(ground.some(1500, least=150))
    for _ in range(2):
        ground.start_worker(command=skewed(f"15:{HOUR},30:{-HOUR},45:0"))
    ground.until(lambda: len(crew_ids(ground)) == 2, "two workers", 60)
    known = crew_ids(ground)
    ground.finish(240)
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead for its clock")
    refused = sum(row["status"] == 429 for row in ground.log())
    ground.promise(not refused, f"{refused} calls were refused for a limit")


@scenario("far-snoozes")
def far_snoozes(ground: Ground) -> None:
    """Rows that a wrong clock has told to wait for a month are pulled in to ten minutes."""
    ground.start()
    number = ground.submit(20)
    far = time.time() + 30 * 86_400
    with ground.database.write() as connection:
        waiting = jobs.update().where(jobs.c.batch_id == number, jobs.c.status == JobStatus.QUEUED)
        told = connection.execute(waiting.values(not_before=far)).rowcount
    ground.remarks.append(f"{told} rows told to wait for a month")
    ground.submit(40)
    ground.start_worker()
    latest = sa.select(sa.func.max(jobs.c.not_before))
    ground.until(
        lambda: (ground.rows(latest)[0]["max_1"] or 0.0) < time.time() + 601,
        "far snoozes to be pulled in",
        45,
        every=0.5,
    )
    with ground.database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.not_before.is_not(None)).values(not_before=1.0))
    ground.finish(60)
