"""Disks that are full under the database: nothing lost, nothing paid twice, and no new call that can't be written down."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from tests.chaos.ground import Ground, StuckError
from tests.chaos.registry import scenario
from tests.chaos.servers import OwnServer, crew_ids, goes_on, late_calls

NOTICED, STILL = 10.0, 5.0
"""Seconds in which the last call must have started once PostgreSQL's disk is full, whose files have some room left; and of silence after it."""


@scenario("full-disk", databases=("sqlite",))
def full_disk(ground: Ground) -> None:
    """The disk under the database is full for a while: no new call starts, replies wait, and all goes on by itself when there is room."""
    ground.start()
    ground.submit(ground.some(1500, least=200))
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > 20, "the first rows", 60)
    known = crew_ids(ground)
    for seconds in [ground.rng.uniform(3, 6)] * ground.some(2) + [25.0] * round(ground.scale):
        # what a full disk says to a writer, for these processes alone and without being root
        for worker in crew:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        gone = time.time()
        ground.quiet(seconds)
        late = late_calls(ground, gone, time.time())
        before = ground.ended()
        for worker in crew:
            resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        took = goes_on(ground, time.monotonic(), 15)
        ground.promise(not late, f"{late} calls started while nothing could be stored")
        ground.remarks.append(f"full for {seconds:.0f} s ({before} rows had ended): rows end again after {took:.1f} s")
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead because the disk was full")
    ground.finish(120)


def small_disk(ground: Ground, place: Path, megabytes: int) -> bool:
    """Mounts a small file system there for this scenario; False where the system doesn't let us."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        ground.remarks.append("no small file system could be mounted here: not played")
        return False
    ground.at_end(lambda: subprocess.run(["umount", str(place)], check=True))
    return True


def fill(place: Path) -> Path:
    """Writes a file until nothing more fits."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):  # a disk that compresses is filled, too
            with contextlib.suppress(OSError):
                while file.write(os.urandom(size)) == size:
                    pass
    return ballast


def last_call(ground: Ground) -> float:
    """When (unix seconds) it started."""
    return max((float(call["at"]) for call in ground.log()), default=0.0)


@scenario("full-tmpfs", databases=("sqlite",))
def full_tmpfs(ground: Ground) -> None:
    """The same on a file system that is really full, where the system lets us mount a small one."""
    place = ground.folder / "small"
    if not small_disk(ground, place, 24):
        ground.start()
        return
    ground.url = f"sqlite:///{place}/truckllm.db"
    ground.start()
    ground.submit(1200)
    for _ in range(2):
        ground.start_worker()
    ground.until(lambda: ground.ended() > 60, "the first rows", 60)
    known = crew_ids(ground)
    ballast = fill(place)
    gone = time.time()
    ground.quiet(20)
    stuck = ground.ended()
    late = late_calls(ground, gone + 3, time.time())
    ballast.unlink()
    took = goes_on(ground, time.monotonic(), 15)
    ground.promise(not late, f"{late} calls started while the disk was full")
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead because the disk was full")
    ground.remarks.append(f"full for 20 s at {stuck} rows: rows end again after {took:.1f} s")
    ground.finish(120)


@scenario("full-postgres", databases=("postgresql",))
def full_postgres(ground: Ground) -> None:
    """PostgreSQL's disk is full twice (error 53100), where we may mount a small one: calls stop, replies wait, all goes on when there is room."""
    place = ground.folder / "small"
    if not small_disk(ground, place, 40):
        ground.start()
        return
    server = OwnServer(Path(tempfile.mkdtemp(prefix="chaospg")))
    ground.at_end(server.close)
    tables = place / "tables"
    tables.mkdir()
    for folder in (ground.folder, place, tables):
        folder.chmod(0o755)  # or PostgreSQL, which may run as another user, doesn't find it
    os.chown(tables, server.owner, -1)
    ground.url = server.spread(tables)
    ground.start()
    ground.submit(1000)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > 60, "the first rows", 60)
    known = crew_ids(ground)
    for seconds in (8.0, 20.0):
        ballast = fill(place)
        full = time.time()
        ground.until(
            lambda: max(full, last_call(ground)) < time.time() - STILL,  # noqa: B023
            "calls to stop",
            NOTICED + STILL,
            every=0.2,
        )
        stopped = max(full, last_call(ground))
        ground.quiet(seconds)
        late = sum(call["at"] > stopped for call in ground.log())
        stuck = ground.ended()
        ballast.unlink()
        took = goes_on(ground, time.monotonic(), 15)
        ground.promise(not late, f"{late} calls started while nothing could be stored")
        ground.remarks.append(
            f"the last call {stopped - full:.1f} s after the disk was full, full for {seconds:.0f} s more at {stuck} rows: rows end again after {took:.1f} s"
        )
        ground.quiet(3)
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead because the disk was full")
    ground.promise(all(one.alive for one in crew), "a worker ended because the disk was full")
    refused = sum("No space left on device" in worker.output.read_text(errors="replace") for worker in crew)
    ground.remarks.append(f"{refused} of {len(crew)} workers tell it in their logs")
    ground.finish(120)


@scenario("full-wal", databases=("postgresql",))
def full_wal(ground: Ground) -> None:
    """PostgreSQL's whole disk is full, its log included, and it ends by that: once there is room and it is started again, all goes on."""
    place = ground.folder / "small"
    if not small_disk(ground, place, 144):
        ground.start()
        return
    for folder in (ground.folder, place):
        folder.chmod(0o755)  # or PostgreSQL, which may run as another user, doesn't find it
    server = OwnServer(place / "pg")
    ground.at_end(server.close)
    ground.url = server.uri
    ground.start()
    ground.submit(1000)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > 60, "the first rows", 60)
    known = crew_ids(ground)
    ballast = fill(place)
    try:
        ground.until(server.ends_without_room, "PostgreSQL to end for want of room", 90)
    except StuckError as error:
        raise StuckError(f"{error}\n--- PostgreSQL: {server.said}") from None
    gone = time.time()
    ground.quiet(15)
    late = late_calls(ground, gone, time.time())
    ballast.unlink()
    server.start()
    ground.until(server.answers, "PostgreSQL to answer", 60)
    took = goes_on(ground, time.monotonic())
    ground.promise(not late, f"{late} calls started while nothing could be stored")
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead because the database was away")
    ground.promise(all(one.alive for one in crew), "a worker ended because the database did")
    ground.remarks.append(f"rows end again {took:.1f} s after PostgreSQL answered")
    ground.finish(120)
