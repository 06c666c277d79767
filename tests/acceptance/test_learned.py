"""Limits that one run has learned, used by the next, by the real command, with everything it starts gone in between."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models.config_file import load_config
from models.database import Database, open_database
from models.learning import fingerprints
from models.store import learned
from models.store.learned import Learned
from tests.conftest import SECRETS
from tests.servers import SandboxProcess

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
RPM = 900
FIRST_SECONDS = 10.0


class Ground:
    """A sandbox that takes less than what is configured, and runs against it."""

    def __init__(self, sandbox: SandboxProcess, cli: Cli, write_config: Any, write_lines: Any, home: Path) -> None:
        self.sandbox, self.cli, self.write_lines, self.home = sandbox, cli, write_lines, home
        self.write_config = write_config
        self.configure(6 * RPM)

    def configure(self, limit: int) -> None:
        keys = {"openai": [{"id": "k", "secret": SECRETS["openai"], "limit_req_per_min": limit, "limits": "learn"}]}
        self.config = self.write_config(self.sandbox.url, keys=keys, providers=("openai",))

    def run(self, rows: int) -> list[dict[str, Any]]:
        """Runs a new batch of so many rows to its end. Returns the sandbox's log of it."""
        self.sandbox.reset()
        lines = [{"provider": "openai", "model": "gpt-4o", "prompt": f"p{n}"} for n in range(rows)]
        done = self.cli("run", self.write_lines(lines), "--new", "-c", self.config, seconds=170)
        assert done.returncode == 0, done.stderr
        assert "canary" not in done.stdout + done.stderr
        return self.sandbox.log()

    def shown(self, *arguments: str) -> str:
        done = self.cli("keys", *arguments, "-c", self.config)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def stored(self) -> list[Learned]:
        with self._database() as database, database.read() as connection:
            return learned.everything(connection, database.now(connection))

    def store(self, requests: float) -> None:
        """Stores a rate as a worker does that has found it."""
        (pool, mark) = next(iter(fingerprints(load_config(self.config, secrets=False).providers).items()))
        with self._database() as database, database.write() as connection:
            one = Learned(pool, "gpt-4o", requests, configured=mark or "")
            learned.keep(connection, [one], database.now(connection))

    def seeded(self) -> int:
        """How often a worker has put limits into its Redis, which is a new one in each run."""
        return (self.home / "worker.log").read_text().count("starts with learned limits")

    @contextmanager
    def _database(self) -> Iterator[Database]:
        self.home.mkdir(mode=0o700, exist_ok=True)
        database = open_database(f"sqlite:///{self.home / 'truckllm.db'}")
        yield database
        database.close()


@pytest.fixture
def ground(
    start_sandbox: Callable[..., SandboxProcess],
    cli: Cli,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    environment: dict[str, str],
) -> Ground:
    sandbox = start_sandbox(limits={"rpm": RPM, "retry_after": 1})
    return Ground(sandbox, cli, write_config, write_lines, Path(environment["TRUCKLLM_HOME"]))


def refused(log: list[dict[str, Any]], seconds: float = FIRST_SECONDS) -> int:
    """The 429s of the first seconds."""
    return sum(row["status"] == 429 for row in log if row["at"] - log[0]["at"] < seconds)


def test_stored_limits_hold_from_the_first_second_until_they_are_reset(ground: Ground) -> None:
    ground.store(0.9 * RPM)
    assert f"about {0.9 * RPM:.0f} requests a minute (configured {6 * RPM:,})" in ground.shown()
    assert refused(ground.run(30)) <= 1
    assert len(ground.stored()) == 1
    assert ground.seeded() == 1
    said = ground.shown("reset-limits", "openai/k")
    assert "openai/k, model gpt-4o: forgotten: " in said
    assert ground.stored() == []
    ground.run(5)
    assert ground.seeded() == 1, "it goes by the configuration again"


def test_limits_that_were_learned_under_another_configuration_are_forgotten(ground: Ground) -> None:
    ground.store(0.1 * RPM)
    ground.configure(5 * RPM)
    assert "the server allows" not in ground.shown()
    ground.run(5)
    assert ground.seeded() == 0
    # what the server states may have been learned anew
    assert all((one.requests_per_min or 0) > 0.5 * RPM for one in ground.stored())


@pytest.mark.full
def test_the_second_run_starts_at_the_rate_that_the_first_one_has_found(ground: Ground) -> None:
    ground.configure(2 * RPM)
    first = ground.run(5 * RPM // 6)
    (found,) = ground.stored()
    assert found.requests_per_min == pytest.approx(RPM, rel=0.3)
    assert "the server allows about" in ground.shown()
    assert refused(first) > 3
    assert refused(ground.run(RPM // 4)) <= 1
