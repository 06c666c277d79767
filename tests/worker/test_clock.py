"""The time that a worker goes by is its database's, and a step of that clock makes nothing older."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from models.database import Database
from worker.recorder import Recorder

DATABASES = ["sqlite"]


def run(database: Database, story: Callable[[Recorder], Awaitable[None]]) -> None:
    """Tells a story of a recorder."""

    async def main() -> None:
        recorder = Recorder(database, asyncio.get_running_loop())
        await story(recorder)
        assert await asyncio.to_thread(recorder.stop, 30.0)

    asyncio.run(main())


def test_time_is_told_by_the_databases_clock(database: Database) -> None:
    async def story(recorder: Recorder) -> None:
        recorder.clock_offset += 1000.0
        assert abs(recorder.now() - time.time() - 1000.0) < 60.0

    run(database, story)


def test_nothing_grows_old_by_a_step_of_the_databases_clock(database: Database) -> None:
    async def story(recorder: Recorder) -> None:
        long_ago, just_now = recorder.now() - 100.0, recorder.now() - 1.0
        recorder.set_clock(recorder.clock_offset + 3600.0)
        while_this_machine_stood_still = 60.0
        assert recorder.age(long_ago) == pytest.approx(100.0, abs=while_this_machine_stood_still)
        assert recorder.age(just_now) == pytest.approx(1.0, abs=while_this_machine_stood_still)
        assert recorder.age(recorder.now() - 7.0) == pytest.approx(7.0, abs=while_this_machine_stood_still)
        recorder.set_clock(recorder.clock_offset + 3600.0)
        assert recorder.age(long_ago) == pytest.approx(100.0, abs=while_this_machine_stood_still)
        recorder.set_clock(recorder.clock_offset - 7200.0)
        assert recorder.age(recorder.now() - 5.0) <= 5.0 + while_this_machine_stood_still
        assert recorder.age(recorder.now() + 3600.0) == 0.0

    run(database, story)
