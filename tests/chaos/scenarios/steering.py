"""A person steers while two workers are at their limits: pausing, going on, cancelling, and small batches behind huge ones."""

from __future__ import annotations

import subprocess
import time

from models.tables import batches
from submit.producer import submit_batch
from tests.chaos.ground import Ground
from tests.chaos.registry import scenario
from tests.servers import TRUCKLLM

RPM = 1800
WITHIN = 2.0
"""Seconds in which a command takes effect, from its return."""
SOON = 12.0
"""Seconds for 20 rows behind a huge batch: at an equal share they need 1.4."""


def command(ground: Ground, *arguments: object) -> float:
    """Runs a `truckllm` command to its end; when it had returned, in unix seconds."""
    done = subprocess.run(
        [*TRUCKLLM, *map(str, arguments), "-c", str(ground.config_path)],
        cwd=ground.folder,
        env=ground.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    returned = time.time()
    ground.promise(done.returncode == 0, f"{arguments[0]}: {done.returncode} {done.stderr[-300:]}")
    return returned


def behind(ground: Ground, **more: int) -> float:
    """Seconds until 20 rows, submitted behind what there is, are answered."""
    began = time.time()
    rows = ground.lines(20)
    ground.expected += len(rows)
    batch = submit_batch(rows, config=ground.config, database=ground.database, **more).batch_id
    mine = batches.select().where(batches.c.id == batch, batches.c.finished_at.is_not(None))
    ground.until(lambda: ground.rows(mine), "a small batch to be answered", 60)
    return time.time() - began


@scenario("steering")
def steering(ground: Ground) -> None:
    """20 rows behind 100,000 are answered in seconds; `pause`, `resume` and `cancel` take effect within 2 s of their return."""
    ground.start(latency=0.3, rpm=RPM, providers=("openai",))
    count = ground.some(100_000) if ground.scale >= 1 else ground.some(20_000, least=1000)
    huge = ground.submit(count)
    for _ in range(2):
        ground.start_worker()
    ground.until(lambda: ground.ended() >= 30, "the work to be going", 60)
    equal = behind(ground)
    first = behind(ground, priority=5)
    ground.promise(equal <= SOON, f"20 rows behind {count} took {equal:.1f} s")
    ground.promise(first <= SOON, f"20 rows of a higher priority took {first:.1f} s")

    def last_start() -> float:
        return float(max(call["at"] for call in ground.log()))

    paused = command(ground, "pause", huge)
    ground.quiet(WITHIN + 1.5)
    pause = last_start() - paused
    ground.promise(pause <= WITHIN, f"a call started {pause:.1f} s after `pause` had returned")
    resumed = command(ground, "resume", huge)
    ground.until(lambda: last_start() > resumed, "the batch to go on", 20)
    resume = min(call["at"] for call in ground.log() if call["at"] > resumed - 0.5) - resumed
    ground.promise(resume <= WITHIN, f"the first call started {resume:.1f} s after `resume` had returned")
    ground.quiet(1.5)
    cancelled = command(ground, "cancel", huge)
    ground.finish(90)
    cancel = last_start() - cancelled
    ground.promise(cancel <= WITHIN, f"a call started {cancel:.1f} s after `cancel` had returned")
    ground.remarks.append(
        f"20 rows behind {count}: {equal:.1f} s, with priority {first:.1f} s; "
        f"last call {pause:+.2f} s after `pause`, {cancel:+.2f} s after `cancel`; first {resume:+.2f} s after `resume`"
    )
