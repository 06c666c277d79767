"""A rolling upgrade under fire: workers of the version before, out of the repository's history, beside those of this one."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path

import sqlalchemy as sa

from models.tables import attempts
from tests.chaos.ground import NUMBERS, Ground, Worker
from tests.chaos.registry import scenario
from tests.chaos.scenarios.kills import at_work

ROOT = Path(__file__).parents[3]
VERSIONS = ROOT / "models" / "migrations" / "versions"


def older_code(folder: Path) -> bool:
    """Lays the newest code that knows nothing of the newest schema into a folder. False where its history isn't there."""

    def git(*arguments: str) -> bytes:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
        return b"" if done.returncode else done.stdout

    newest = max(VERSIONS.glob("[0-9]*.py"))
    added = git("log", "--diff-filter=A", "--format=%H", "--", str(newest.relative_to(ROOT))).decode().split()
    packed = git("archive", f"{added[-1]}^") if added else b""
    if not packed:
        return False
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return True


def told(ground: Ground, *arguments: object, name: str, **env: str) -> None:
    """One command, to its good end."""
    process = ground.begin(*arguments, "-c", ground.config_path, name=name, TRUCKLLM_REDIS_URL=ground.valkey.url, **env)
    ground.until(lambda: process.poll() is not None, f"`{arguments[0]}` to end", 60)
    said = (ground.folder / f"{name}.output").read_text()
    ground.promise(process.returncode == 0, f"`{arguments[0]}` ended with {process.returncode}: {said[-400:]}")


def calls_since(ground: Ground, number: int, since: float) -> int:
    """Calls that a worker (by its number) has announced since then (unix seconds)."""
    its = (attempts.c.id >= number * NUMBERS, attempts.c.id < (number + 1) * NUMBERS)
    return ground.number(sa.select(sa.func.count()).where(*its, attempts.c.started_at > since))


@scenario("rolling-upgrade")
def rolling_upgrade(ground: Ground) -> None:
    """The schema is brought up to date under workers of the version before (out of git's history), which share the work with new ones, and are killed and replaced."""
    old = ground.folder / "old"
    if not older_code(old):
        ground.start()
        ground.remarks.append("there is no history here to take older code from: not played")
        return
    path = str(old)
    ground.start(latency=0.4, rpm=900, upgraded=False)
    told(ground, "db", "upgrade", name="db-before", PYTHONPATH=path)
    rows = ground.lines(ground.some(500, least=200))
    ground.expected += len(rows)
    told(ground, "submit", ground.write(rows), name="submit-before", PYTHONPATH=path)
    crew = [ground.start_worker(PYTHONPATH=path) for _ in range(2)]
    ground.until(lambda: ground.ended() > 40, "the first rows", 60)
    numbers = [ground.number_of(one) for one in crew]
    told(ground, "db", "upgrade", name="db-after")
    upgraded = time.time()
    ground.submit(ground.some(600, least=200))
    fresh = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: working(ground, fresh), "new workers to have calls out", 60)
    met = time.time()
    ground.until(
        lambda: working(ground, crew) and all(calls_since(ground, number, met) > 10 for number in numbers),
        "old ones to call beside them",
        60,
    )
    kill_at_work(ground, crew.pop(0))
    crew.append(ground.start_worker(PYTHONPATH=path))
    ground.until(lambda: at_work(ground, crew[-1]), "an old worker that was started after the upgrade to work", 60)
    kill_at_work(ground, fresh.pop(0))
    fresh.append(ground.start_worker())
    for one in crew:
        ground.until(lambda one=one: at_work(ground, one), "the next old worker to have calls out", 60)  # type: ignore[misc]
        code = ground.stop(one)
        ground.promise(code == 0, f"an old worker ended on SIGTERM with exit code {code}")
    ground.finish()
    beside = sum(calls_since(ground, number, upgraded) for number in numbers)
    ground.remarks.append(f"{beside} calls of the two first old workers after the schema was brought up to date")


def working(ground: Ground, crew: list[Worker]) -> bool:
    """Whether all of them have calls out, of which there are always more."""
    busy = [at_work(ground, one) for one in crew]
    return all(busy)


def kill_at_work(ground: Ground, worker: Worker) -> None:
    """`kill -9` while it has calls out."""
    ground.until(lambda: at_work(ground, worker), "the next victim to have calls out", 60)
    ground.quiet(ground.rng.uniform(0.0, 0.4))
    ground.kill(worker)
