"""Databases that restart, cut connections, swallow the answer to a commit, or are locked: nothing lost, nothing paid twice."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from tests.chaos.ground import Ground
from tests.chaos.registry import scenario
from tests.chaos.servers import OwnServer, crew_ids, goes_on, late_calls
from tests.servers import TRUCKLLM


@scenario("connection-cuts", databases=("postgresql",))
def connection_cuts(ground: Ground) -> None:
    """PostgreSQL cuts every connection again and again under load: no row lost, no call made twice."""
    ground.start()
    ground.submit(ground.some(1500, least=160))
    for _ in range(2):
        ground.start_worker()
    ground.until(lambda: ground.ended() > 10, "the first rows", 60)
    name = sa.make_url(ground.url).database
    server = sa.create_engine(
        sa.make_url(ground.url).set(drivername="postgresql+psycopg", database="postgres"), isolation_level="AUTOCOMMIT"
    )
    cut = sa.text("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = :name")
    cuts = 0
    with server.connect() as connection:
        for _ in range(ground.some(60, least=6)):
            ground.quiet(ground.rng.uniform(0.1, 1.0))
            cuts += int(connection.execute(cut, {"name": name}).scalar_one())
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                if ground.left() <= 0:
                    break
    server.dispose()
    ground.finish(180)
    ground.remarks.append(f"{cuts} connections cut")


@scenario("postgres-restarts", databases=("postgresql",))
def postgres_restarts(ground: Ground) -> None:
    """PostgreSQL restarts: fast, immediate, and 10 s away. All goes on by itself, and nobody is taken for dead."""
    server = OwnServer(Path(tempfile.mkdtemp(prefix="chaospg")))
    ground.at_end(server.close)
    ground.url = server.uri
    ground.start()
    ground.submit(1200)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > 40, "the first rows", 60)
    known = crew_ids(ground)
    for how, away in (("fast", 0.0), ("immediate", 0.0), ("fast", 10.0), ("immediate", 10.0)):
        server.stop(how)
        down = time.time()
        ground.quiet(away)
        late = late_calls(ground, down, time.time())
        server.start()
        back = time.monotonic()
        ground.until(server.answers, "PostgreSQL to answer", 30)
        ground.promise(not late, f"{late} calls started while the database was away ({how})")
        took = goes_on(ground, back)
        ground.remarks.append(f"{how}, away {away:.0f} s: rows end again after {took:.1f} s")
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead because the database was away")
    ground.promise(all(one.alive for one in crew), "a worker ended because the database was away")
    ground.finish(120)


@scenario("lost-commit-answers", databases=("postgresql",))
def lost_commit_answers(ground: Ground) -> None:
    """A commit goes through and its answer gets lost, for claims, announcements and results alike: nobody redoes, forgets or keeps a row for ever."""
    ground.start()
    ground.submit(ground.some(1500, least=160))
    with Proxy(ground) as proxy:
        for _ in range(2):
            ground.start_worker(TRUCKLLM_DATABASE_URL=proxy.url)
        ground.finish(240)
    ground.promise(proxy.swallowed > 2, f"only {proxy.swallowed} answers were swallowed")
    ground.remarks.append(f"{proxy.swallowed} answers to COMMIT swallowed")


class Proxy:
    """Stands between workers and PostgreSQL: of some commits it passes the word on, takes the answer in, and hangs up."""

    def __init__(self, ground: Ground) -> None:
        url = sa.make_url(ground.url)
        host = str(url.query["host"])
        port = url.port or 5432
        self._target = f"{host}/.s.PGSQL.{port}"
        self._folder = ground.folder / "pg"
        self._folder.mkdir()
        self.url = url.update_query_dict({"host": str(self._folder)}).render_as_string(hide_password=False)
        self._rng = ground.rng
        self._next = ground.rng.randint(10, 40)
        self._commits = 0
        self.swallowed = 0
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/.s.PGSQL.{port}")
        self._listener.listen(64)
        self._over = False

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                doomed = threading.Event()
                threading.Thread(target=self._there, args=(client, server, doomed), daemon=True).start()
                threading.Thread(target=self._back, args=(client, server, doomed), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" in data and self._choose():
                    doomed.set()
                server.sendall(data)
        self._hang_up(client, server)

    def _back(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if doomed.is_set():
                    break  # done, and nobody hears of it
                client.sendall(data)
        self._hang_up(client, server)

    def _choose(self) -> bool:
        with self._lock:
            self._commits += 1
            if self._commits < self._next:
                return False
            self._next = self._commits + self._rng.randint(10, 40)
            self.swallowed += 1
            return True

    @staticmethod
    def _hang_up(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@scenario("locked-sqlite", databases=("sqlite",))
def locked_sqlite(ground: Ground) -> None:
    """Another process holds SQLite's lock for 20 s and for 45 s: nothing is paid twice, nobody is taken for dead, `status` answers."""
    ground.start()
    ground.submit(1500)
    crew = [ground.start_worker() for _ in range(2)]
    ground.until(lambda: ground.ended() > 60, "the first rows", 60)
    known = crew_ids(ground)
    path = str(sa.make_url(ground.url).database)
    for seconds in (20, 45):
        with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            locked = time.time()
            began = time.monotonic()
            told = ask(ground, "status", "--json")
            answered = time.monotonic() - began
            ground.promise(told.returncode == 0 and bool(json.loads(told.stdout)), f"status said {told.stderr[-300:]}")
            ground.promise(answered < seconds, f"status took {answered:.1f} s: it waited for the lock")
            ground.quiet(max(0.0, seconds - answered))
            late = late_calls(ground, locked, time.time())
            other.execute("ROLLBACK")
        ground.promise(not late, f"{late} calls started while the database was locked")
        took = goes_on(ground, time.monotonic())
        ground.remarks.append(f"locked for {seconds} s: rows end again after {took:.1f} s")
    ground.promise(crew_ids(ground) == known, "a worker was taken for dead because the database was locked")
    ground.promise(all(one.alive for one in crew), "a worker ended because the database was locked")
    ground.finish(120)


def ask(ground: Ground, *arguments: str) -> subprocess.CompletedProcess[str]:
    """One command of the CLI, to its end."""
    return subprocess.run(
        [*TRUCKLLM, *arguments, "-c", str(ground.config_path)],
        cwd=ground.folder,
        env=ground.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
