"""`kill -9` of workers: at random moments, and at the points where a promise could break."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import sqlalchemy as sa

from models.states import JobStatus
from models.tables import batches, jobs
from tests.chaos.doomed import POISON
from tests.chaos.ground import Ground, Worker
from tests.chaos.registry import scenario

SITE = Path(__file__).parent.parent / "site"
LATENCY = 0.4
RPM = 1500
SHORT_RPM = 600
"""A limit that paces the work: there is less of it in `make test`."""
FAILED = sa.select(jobs.c.custom_id, jobs.c.error_code).where(jobs.c.status == JobStatus.FAILED)
POINTS = (
    "after-claim",
    "after-reserve",
    "after-announce",
    "after-send",
    "after-reply",
    "in-record",
    "after-record",
    "before-ack",
)
"""Where a worker can be killed: all steps of a call, from claim to the ticket's acknowledgement."""
ENDS = ("before-reconcile", "in-reconcile", "after-reconcile", "in-complete", "after-complete")
"""Where one can be killed when the last row of a batch has ended: all steps of its finalizing."""
MOST_MEETINGS = {"before-ack": 1, "after-claim": 4, "after-reserve": 6, "in-record": 12, "after-record": 12}
"""Up to which time a worker that comes by a point is killed there; 40 where nothing else is said."""


def rpm(ground: Ground) -> int:
    """Each key's limit."""
    return RPM if ground.scale >= 0.25 else SHORT_RPM


def keep_busy(ground: Ground) -> None:
    """Submits another batch when the work is about to run out, so that every kill hits some."""
    if ground.left() < ground.some(150, least=40):
        ground.submit(ground.some(300, least=80))


def at_work(ground: Ground, worker: Worker) -> bool:
    """Whether a worker has calls out; keeps the work from running out meanwhile."""
    keep_busy(ground)
    return ground.calling(worker) > 0


@scenario("random-kills", short=0.08)
def random_kills(ground: Ground) -> None:
    """`kill -9` of a worker at random moments, one of three at work, started again at once; one key's limit is of tokens."""
    tokens = {"openai": {"limit_tokens_per_min": 100 * rpm(ground)}}
    ground.start(latency=LATENCY, rpm=rpm(ground), limits=tokens)
    ground.submit(ground.some(200, least=80))
    crew = [ground.start_worker() for _ in range(ground.some(3, least=2))]
    for _ in range(ground.some(20, least=2)):
        victim = ground.rng.randrange(len(crew))
        ground.until(lambda: at_work(ground, crew[victim]), "the next victim to have calls out", 60)  # noqa: B023
        ground.quiet(ground.rng.uniform(0.0, 0.6))
        ground.kill(crew[victim])
        crew[victim] = ground.start_worker()
    ground.finish()


@scenario("named-kills", short=0.125, short_on="postgresql")
def named_kills(ground: Ground) -> None:
    """Workers that kill themselves right after claim, reserve, announcement, send, reply, record, before and after its commit, and before the ticket's ack."""
    ground.start(latency=LATENCY, rpm=rpm(ground), worker={"concurrency": 64, "grace_seconds": 10, "budget_seconds": 3})
    ground.submit(ground.some(200, least=80))
    points = list(POINTS) * 3
    ground.rng.shuffle(points)
    points = points[: ground.some(len(points))]
    steady = ground.start_worker()
    doomed: list[Worker] = []
    while points or doomed:
        while points and len(doomed) < 2:
            point = points.pop()
            nth = ground.rng.randint(1, MOST_MEETINGS.get(point, 40))
            after = ground.rng.uniform(0.05, 0.75 * LATENCY) if point == "after-send" else 0.0
            doomed.append(ground.start_worker(point, nth, after=after))

        def dead() -> Worker | None:
            keep_busy(ground)
            return next((one for one in doomed if not one.alive), None)  # noqa: B023

        victim = ground.until(dead, "a doomed worker to die", 90)
        assert victim is not None
        ground.died(victim)
        doomed.remove(victim)
    ground.promise(steady.alive, "the worker that nobody killed has ended")
    ground.finish()


@scenario("finalizing-kills")
def finalizing_kills(ground: Ground) -> None:
    """Workers that kill themselves while they finalize a batch, before, in and after its reconciliation and its completion: another completes it, once."""
    ground.start(latency=0.05, rpm=None)
    ends = list(ENDS) * (2 if ground.scale >= 1 else 1)
    ground.rng.shuffle(ends)
    completed: dict[int, float] = {}
    for point in ends[: ground.some(len(ends), least=2)]:
        ground.submit(ground.some(40, least=20))
        ground.died(ground.start_worker(point), 90)
        for row in ground.rows(sa.select(batches.c.id, batches.c.finished_at).where(batches.c.status == "completed")):
            completed.setdefault(int(row["id"]), float(row["finished_at"]))
    open_ = [row["status"] for row in ground.rows(sa.select(batches.c.status)) if row["status"] != "completed"]
    ground.promise(bool(open_), "no worker was killed before its batch was completed")
    ground.start_worker()
    ground.finish(60)
    once = {
        int(row["id"]): float(row["finished_at"]) for row in ground.rows(sa.select(batches.c.id, batches.c.finished_at))
    }
    twice = {number: (at, once[number]) for number, at in completed.items() if once[number] != at}
    ground.promise(not twice, f"batches were completed twice: {twice}")
    ground.remarks.append(f"{len(open_)} of {len(once)} batches left by the killed ones, completed by the last worker")


@scenario("poison-among-kills")
def poison_among_kills(ground: Ground) -> None:
    """A row that crashes whatever worker is about to send it, among random kills: it alone fails, as `poison`."""
    ground.start(latency=LATENCY, rpm=rpm(ground))
    rows = ground.lines(300)
    rows.insert(ground.rng.randrange(20, 60), ground.lines(1, words=POISON)[0])
    ground.may_fail = 1
    ground.submit(rows)
    marker = ground.folder / "poison.died"

    def another() -> Worker:
        return ground.start_worker(
            PYTHONPATH=f"{SITE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", CHAOS_POISON=str(marker)
        )

    crew = [another() for _ in range(2)]
    left = ground.some(6, least=1)

    def over() -> bool:
        nonlocal left
        for place, worker in enumerate(crew):
            if not worker.alive:
                worker.over = worker.process.returncode == -signal.SIGKILL
                crew[place] = another()
            elif left and ground.calling(worker) and ground.rng.random() < 0.02:
                left -= 1
                ground.kill(worker)
                crew[place] = another()
        if left:
            keep_busy(ground)
        return not left and ground.left() <= 0

    ground.until(over, "the poison to be found and all else to be done", 240)
    ground.finish()
    ground.note_deaths(marker, "poison")
    failed = ground.rows(FAILED)
    ground.promise(
        [row["error_code"] for row in failed] == ["poison"], f"instead of one poison row these failed: {failed}"
    )


@scenario("rolling-restart")
def rolling_restart(ground: Ground) -> None:
    """SIGTERM to every worker in turn under load, each replaced at once: no call is lost, no call made twice, exit code 0."""
    ground.start(latency=LATENCY, rpm=rpm(ground))
    ground.submit(ground.some(200, least=80))
    crew = [ground.start_worker() for _ in range(ground.some(3, least=2))]
    for turn in range(ground.some(9, least=2)):
        place = turn % len(crew)
        ground.until(lambda: at_work(ground, crew[place]), "the next worker to have calls out", 60)  # noqa: B023
        ground.quiet(ground.rng.uniform(0.0, 0.6))
        code = ground.stop(crew[place])
        ground.promise(code == 0, f"a worker ended on SIGTERM with exit code {code}")
        crew[place] = ground.start_worker()
    ground.finish()
    ground.promise(not ground.kills, "nobody was to be killed")
    cut = ground.outcomes().get("unknown", 0)
    ground.promise(cut == 0, f"{cut} calls are `unknown` after a restart that was to finish them")
