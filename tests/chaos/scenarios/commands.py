"""`kill -9` of the commands of people: of `submit` half way, of `run` alone, and of `run` with all it started at once."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import sqlalchemy as sa

from models.errors import StorageError
from models.states import BatchStatus
from models.tables import attempts, batches, jobs, workers
from tests.chaos.ground import Ground, Kill, Started
from tests.chaos.registry import scenario
from tests.servers import TRUCKLLM

FULL = Path("/dev/full")
CHUNK = 2000
"""So many rows the producer stores at once."""


@scenario("producer-kills", short=0.3)
def producer_kills(ground: Ground) -> None:
    """`kill -9` of `submit` at random moments and half way: nothing of it is visible, and the same command goes on with it."""
    ground.start(latency=0.05, rpm=None)
    ground.start_worker()
    chunks = 3 if ground.scale >= 1 else 2
    rows = ground.lines(CHUNK * (chunks - 1) + CHUNK // 4)
    path = ground.write(rows)
    ground.expected += len(rows)
    points = ["in-load", "in-load", "before-publish"] * ground.some(4)
    if ground.scale < 1:
        points = points[:2]
    stored = 0
    for number, point in enumerate(points):
        random_moment = number % 2 == 1 and ground.scale >= 1
        marker = ground.folder / f"submit{number}.died"
        nth = ground.rng.randint(2, chunks) if point == "in-load" else 1
        command = ground.doomed(point, nth, 0.0, marker)
        submit = ground.begin("submit", path, "-c", ground.config_path, name=f"submit{number}", command=command)
        if random_moment:
            ground.quiet(ground.rng.uniform(0.3, 1.5))
            submit.kill()
        ground.until(lambda: submit.poll() is not None, "the producer to die", 60)  # noqa: B023
        if submit.returncode != -signal.SIGKILL:
            ground.promise(False, f"submit was to die {point} and ended with {submit.returncode}")
        ground.strikes.append(f"submit {point}")
        look_whether_hidden(ground)
        before, stored = stored, ground.number(sa.select(sa.func.count()).select_from(jobs))
        ground.promise(stored >= before, f"of {before} rows that were stored {stored} are left: it began anew")
    ground.promise(stored > 0, "nothing was stored before the last kill: no load was cut half way")
    last = ground.begin(
        "submit",
        path,
        "-c",
        ground.config_path,
        name="submit-published",
        command=ground.doomed("after-publish", 1, 0.0, ground.folder / "submit.died"),
        TRUCKLLM_REDIS_URL=ground.valkey.url,
    )
    ground.until(lambda: last.poll() is not None, "the producer to die after publishing", 60)
    ground.strikes.append("submit after-publish")
    seen = ground.rows(sa.select(batches.c.status, batches.c.total))
    ground.promise(
        len(seen) == 1 and seen[0]["status"] != BatchStatus.LOADING and seen[0]["total"] == len(rows),
        f"after publishing there should be one whole batch, and there is {seen}",
    )
    again = ground.begin("submit", path, "-c", ground.config_path, name="submit-again")
    ground.until(lambda: again.poll() is not None, "the last submit", 60)
    ground.promise(again.returncode == 0, f"the same submit again ended with {again.returncode}")
    ground.promise(
        ground.number(sa.select(sa.func.count()).select_from(batches)) == 1, "the same file became two batches"
    )
    ground.finish()


def look_whether_hidden(ground: Ground) -> None:
    """Of a load cut short nothing may be seen by workers."""
    made = ground.number(sa.select(sa.func.count()).select_from(attempts))
    taken = ground.number(sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status != "queued"))
    visible = ground.rows(sa.select(batches.c.id, batches.c.status).where(batches.c.status != BatchStatus.LOADING))
    ground.promise(not visible, f"half a batch is visible: {visible}")
    ground.promise(not (made or taken), f"{taken} rows of half a batch were taken, {made} calls made")


def family(pid: int) -> list[psutil.Process]:
    """All processes that a command has started."""
    return psutil.Process(pid).children(recursive=True)


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def run_again_and_again(ground: Ground, kills: int, *, everything: bool) -> None:
    """Kills `run`, alone or with its whole family, and starts it again, so many times; then lets it end."""
    ground.start(latency=0.4, rpm=900, worker={"processes": 2, "concurrency": 64, "grace_seconds": 10})
    rows = ground.lines(150 + kills * 130)
    path = ground.write(rows)
    ground.expected += len(rows)
    for number in range(kills):
        run = start_run(ground, path, number)
        before = ground.ended()

        def at_work() -> bool:
            if run.poll() is not None:  # noqa: B023
                raise RuntimeError(f"run ended by itself with {run.returncode}: {ground.state()}")  # noqa: B023
            return ground.ended() > before + 20  # noqa: B023

        ground.until(at_work, "run to have calls answered", 60)
        ground.quiet(ground.rng.uniform(0.0, 0.6))
        kin = family(run.pid)
        crew = {row["pid"] for row in ground.rows(sa.select(workers.c.pid))} & {process.pid for process in kin}
        doomed = [psutil.Process(run.pid), *(kin if everything else ())]
        ground.rng.shuffle(doomed)
        ground.kills += [Kill(time.time(), "with run")] * len(crew)
        ground.promise(bool(crew), "run was killed without workers at work")
        ground.strikes.append("run and all it started" if everything else "run")
        for process in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        run.wait()
        ground.until(lambda: all(gone(process) for process in kin), "all that run had started to end", 15)  # noqa: B023
    run = start_run(ground, path, kills)
    ground.until(lambda: run.poll() is not None, "the last run to end", 120)
    ground.promise(run.returncode == 0, f"the last run ended with {run.returncode}: {ground.state()}")
    ground.finish()
    written = [json.loads(line) for line in path.with_suffix(".results.jsonl").read_text().splitlines()]
    ground.promise(
        [row["id"] for row in written] == [row["id"] for row in rows], "the results are not the input's rows in order"
    )
    ground.promise(all(row["status"] == "succeeded" for row in written), "a row of the results did not succeed")


def start_run(ground: Ground, path: Path, number: int, command: Sequence[str] = TRUCKLLM) -> Started:
    return ground.begin("run", path, "-c", ground.config_path, name=f"run{number}", command=command)


@scenario("run-kills")
def run_kills(ground: Ground) -> None:
    """`kill -9` of `run`: no process stays behind, and `run` again goes on where it was."""
    run_again_and_again(ground, ground.some(4), everything=False)


@scenario("export-kills", short=0.3)
def export_kills(ground: Ground) -> None:
    """`kill -9` of `run` before, while and after it writes the results, and a full disk there: the same command writes them, and asks for nothing again."""
    ground.start(latency=0.02, rpm=None)
    rows = ground.lines(ground.some(400, 60))
    path = ground.write(rows)
    ground.expected += len(rows)
    results = path.with_suffix(".results.jsonl")
    points = ("before-export", "in-export", "after-export")
    for number, point in enumerate(points):
        nth = ground.rng.randint(1, len(rows)) if point == "in-export" else 1
        doomed = ground.doomed(point, nth, 0.0, ground.folder / f"run{number}.died")
        run = start_run(ground, path, number, command=doomed)
        kin: set[psutil.Process] = set()

        def died() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                kin.update(family(run.pid))  # noqa: B023
            return run.poll() is not None  # noqa: B023

        ground.until(died, f"run to die {point}", 90)
        ground.promise(run.returncode == -signal.SIGKILL, f"run was to die {point} and ended with {run.returncode}")
        ground.strikes.append(f"run {point}")
        ground.until(lambda: all(gone(process) for process in kin), "all that run had started to end", 15)  # noqa: B023
        ground.promise(results.exists() == (point == "after-export"), f"killed {point}: {results.name} is wrong")
    if FULL.exists():  # every write to it says that the disk is full
        run = ground.begin("run", path, "-c", ground.config_path, "-o", FULL, name="run-full")
        ground.until(lambda: run.poll() is not None, "run to end at a full disk", 60)
        ground.promise(run.returncode == StorageError.exit_code, f"with the disk full run ended with {run.returncode}")
    results.unlink()
    run = start_run(ground, path, len(points))
    ground.until(lambda: run.poll() is not None, "the last run to end", 60)
    ground.promise(run.returncode == 0, f"the last run ended with {run.returncode}: {ground.state()}")
    ground.finish()
    ground.promise(len(ground.log()) == len(rows), f"{len(rows)} rows, and {len(ground.log())} calls")
    written = [json.loads(line)["id"] for line in results.read_text().splitlines()]
    ground.promise(written == [row["id"] for row in rows], "the results are not the input's rows in order")


@scenario("everything-kills")
def everything_kills(ground: Ground) -> None:
    """`kill -9` of everything at once, workers, Valkey and `run`; then `run` again."""
    run_again_and_again(ground, ground.some(5), everything=True)
