"""What several files of these tests need: one database instead of both, an emptied Valkey, workers without their consumers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import redis

from models.database import Database
from tests.worker.bench import Bench, bench
from tests.worker.scripted import config
from worker import flights


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A file that says `DATABASES = ["sqlite"]` has its tests run on that one only: what they are about is not the database's."""
    chosen = getattr(metafunc.module, "DATABASES", None)
    if chosen is not None and "database_url" in metafunc.fixturenames:
        # as a mark, which stands instead of the fixture's own parameters
        metafunc.definition.add_marker(pytest.mark.parametrize("database_url", chosen, indirect=True))


@pytest.fixture(autouse=True)
def _calls_that_are_late_still_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stands still for more than a second makes a worker take back what it had just announced, and announce it
    anew: rightly, but tests count announcements."""
    monkeypatch.setattr(flights, "LATEST_START", 60.0)


@pytest.fixture
def emptied_valkey_url(valkey_url: str) -> str:
    """The session's server, emptied: no breaker of another test is open, no bucket full."""
    with contextlib.closing(redis.Redis.from_url(valkey_url)) as client:
        client.flushall()
    return valkey_url


@pytest.fixture
def start_worker(database: Database, emptied_valkey_url: str) -> Iterator[Callable[..., Bench]]:
    """Starts workers on one database and one Valkey, of a provider `p` whose one key has no limits unless it is given another
    configuration."""
    with ExitStack() as stack:
        yield lambda settings=None: stack.enter_context(bench(settings or config(), database, emptied_valkey_url))
