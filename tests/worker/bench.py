"""The inside of a worker process without its Celery consumer: everything that `worker.process` makes, and a test that drives it.

Nothing is replaced: Valkey, the database and the sandbox are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from models.config import Config
from models.config_file import load_config
from models.database import Database
from worker.janitor import Janitor
from worker.keys import KeyRing
from worker.lease import Lease
from worker.limits.limiter import Limiter
from worker.process import Process
from worker.recorder import Recorder
from worker.ruling import Ruling
from worker.runner import Runner

T = TypeVar("T")


POLL_SECONDS = 0.01


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> float:
    """Waits on the event loop until something holds. How long that took, in seconds.

    They are counted in looks of this loop, about 10 ms each, not by a clock: what waits takes as many of them on a busy machine,
    on which this process gets to run now and then, as on an idle one.
    """
    most = round(seconds / POLL_SECONDS)
    for looks in range(most + 1):
        if condition():
            return looks * POLL_SECONDS
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError(f"waited {seconds:.0f} s in vain")


class Bench:
    """One worker's parts. `rung` are the providers that its janitor would have sent tickets for."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.rung: list[str] = []
        self.config: Config = process.config
        self.runners: dict[str, Runner] = process._runners
        self.recorder: Recorder = process._recorder
        self.limiter: Limiter = process._limiter
        self.lease: Lease = process._lease
        self.ruling: Ruling = process._ruling
        self.janitor = Janitor(self.lease, self.recorder, self.runners, self._ring, ruling=self.ruling)

    async def _ring(self, provider: str) -> None:
        self.rung.append(provider)

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 90.0) -> T:
        """Does something on the worker's event loop."""
        return self._process._on_loop(work, timeout=seconds)

    def keys(self, provider: str = "openai") -> KeyRing:
        return self.runners[provider].engine.ring

    def drain(self, provider: str = "openai", budget: float = 60.0) -> bool:
        """What a ticket does; then waits until every call is back and every ending stored."""
        runner = self.runners[provider]

        async def work() -> bool:
            more = await runner.drain(budget)
            await until(lambda: not runner.in_flight and not runner.held)
            await self.recorder.call(lambda _: None)  # behind the look whether a batch is done
            return more

        return self.run(work())

    def stop(self) -> None:
        """What the first SIGTERM does."""
        self._process._loop.call_soon_threadsafe(self._process._stop_runners)

    def tick(self) -> None:
        """One round of the janitor."""
        self.run(self.janitor.tick())
        self.run(self.janitor.call_out())


@contextmanager
def bench(config: Config | Path, database: Database, redis_url: str) -> Iterator[Bench]:
    """A registered worker. Its own janitor's rounds are stopped: a test calls `tick`."""
    settings = load_config(config, secrets=True) if isinstance(config, Path) else config
    url = database.url.render_as_string(hide_password=False)
    process = Process(settings, url, redis_url, [provider.id for provider in settings.providers])
    process._thread.start()
    try:
        process._on_loop(process._start(), timeout=30)
        assert process._janitor is not None
        process._loop.call_soon_threadsafe(process._janitor.cancel)
        made = Bench(process)
        made.run(made.lease.beat())
        yield made
    finally:
        process._grace = 0.5
        process._end()
        process._database.close()
