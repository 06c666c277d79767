"""The local stack: Valkey and worker processes of one TRUCKLLM_HOME, used exactly when no Redis URL is configured.

It starts, watches and ends processes; it doesn't know what the workers do. One process owns the stack, by the lock on
`stack.lock`; others attach to it, and take over when the lock frees.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import processes
from models.errors import StorageError, UsageError
from models.processes import Child, Ended, stop_all
from submit import valkey

LOCK = "stack.lock"
RECORD = "stack.json"
WORKER_LOG = "worker.log"
LOG_BYTES = 8 * 1024 * 1024
"""A longer log is put aside (as worker.log.1) when a stack starts."""

JOIN_SECONDS = 15.0
"""How long a newcomer waits for an owner that is starting or ending."""

LOOK_SECONDS = 1.0
"""How often one that is attached looks whether the owner is still there."""

VALKEY_STOP_SECONDS = 3.0
FIX_FIRST = 2
"""Exit code of a worker whose configuration is wrong: starting it again won't help."""


@dataclass(frozen=True, slots=True)
class Crew:
    """The worker processes that belong to a stack: how many, for which providers (empty: all), and how to start one.

    `always`: they run beside a stack that somebody else owns, too. `log`: None for our own stderr.
    """

    processes: int = 1
    config_path: Path | None = None
    providers: tuple[str, ...] = ()
    grace_seconds: float = 60.0
    always: bool = False
    log: Path | None = None
    command: tuple[str, ...] = field(default=(sys.executable, "-P", "-m", "truckllm", "worker"))

    def children(self, home: Path, redis_url: str) -> list[Child]:
        """The processes, not yet started."""
        command = [*self.command, "--processes", "1", "--parent-pipe", "0"]
        if self.config_path is not None:
            command += ["-c", str(self.config_path)]
        for provider in self.providers:
            command += ["--provider", provider]
        env = {**os.environ, "TRUCKLLM_HOME": str(home), "TRUCKLLM_REDIS_URL": redis_url}
        return [Child(f"worker process {n}", command, env=env, log=self.log) for n in range(1, self.processes + 1)]


class Stack:
    """A running local stack. `redis_url` may change when another owner takes over; `tick` says so."""

    def __init__(self, home: Path, crew: Crew) -> None:
        self.home = home.absolute()
        self.crew = crew
        self.redis_url = ""
        self.owner = False
        self._lock: int | None = None
        self._folder: Path | None = None
        self._valkey: Child | None = None
        self._workers: list[Child] = []
        self._looked = 0.0

    def start(self) -> None:
        """Starts the stack, or attaches to the one that runs. Raises StorageError or UsageError."""
        deadline = time.monotonic() + JOIN_SECONDS
        while not (self._take_lock() or self._attach()):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{self.home / LOCK} is held by another process, but its local stack doesn't answer{self._who()}: "
                    "end that process, or use another TRUCKLLM_HOME"
                )
            time.sleep(0.05)
        if self._lock is not None:
            self._own()

    def tick(self) -> list[str]:
        """Looks after all of it; call it a few times a second. What happened since, in sentences for people.

        Raises UsageError when the workers refuse the configuration, StorageError when a server can't be started.
        """
        told: list[str] = []
        if self._valkey is not None:
            told += [f"{ended.name} {ended.how}; it is started again" for ended in [self._valkey.tick()] if ended]
        elif time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            told += self._look()
        for worker in self._workers:
            ended = worker.tick()
            if ended is not None:
                told.append(self._told(ended))
        return told

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ends what is ours: workers finish their calls within the grace (the crew's by default), then Valkey goes."""
        try:
            stop_all(self._workers, self.crew.grace_seconds if grace_seconds is None else grace_seconds)
        finally:
            self._workers = []
            self._end_valkey()
            if self._lock is not None:
                if self.owner:
                    (self.home / RECORD).unlink(missing_ok=True)
                os.close(self._lock)
            self._lock, self.owner = None, False

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of our own workers that live."""
        return [pid for worker in self._workers if (pid := worker.pid) is not None]

    def _take_lock(self) -> bool:
        path = self.home / LOCK
        try:
            lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_ino == path.stat().st_ino:  # else: removed meanwhile, and a lock on nothing
                    self._lock = lock
                    return True
            except BlockingIOError:
                pass
            os.close(lock)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error
        return False

    def _own(self) -> None:
        left = self._record().get("folder")
        if isinstance(left, str):
            valkey.clear(Path(left))
        self._folder = valkey.new_folder()
        self._valkey = valkey.server(self._folder)
        self.redis_url = f"unix://{valkey.socket_path(self._folder)}"
        self.owner = True
        self._write_record()
        self._valkey.start()
        self._start_workers()  # they take longer to start than Valkey does, so they needn't wait for it
        valkey.wait_for(valkey.socket_path(self._folder), self._valkey)

    def _attach(self) -> bool:
        record = self._record()
        try:
            folder = Path(record["folder"])
            known = processes.alive(record["pid"], record["pid_started"], record["boot_id"])
        except (KeyError, TypeError):
            return False
        if record.get("host") != processes.host() or not known or not valkey.answers(valkey.socket_path(folder)):
            return False
        url = f"unix://{valkey.socket_path(folder)}"
        if url != self.redis_url:
            self.redis_url = url
            if self.crew.always:
                self._start_workers()
        return True

    def _look(self) -> list[str]:
        before = self.redis_url
        if self._take_lock():
            self._own()
            return ["the local stack's owner has ended; this process goes on with it"]
        if self._attach() and self.redis_url != before:
            return ["the local stack has another owner now"]
        return []

    def _start_workers(self) -> None:
        stop_all(self._workers, self.crew.grace_seconds)  # those of the old owner's Valkey can't go on
        if self.crew.log is not None:
            _put_aside(self.crew.log)
        self._workers = self.crew.children(self.home, self.redis_url)
        for worker in self._workers:
            worker.start()

    def _told(self, ended: Ended) -> str:
        log = f" (see {self.crew.log})" if self.crew.log is not None else ""
        if ended.code == FIX_FIRST:
            raise UsageError(f"the worker can't start: {ended.last_line or ended.how}{log}")
        said = f": {ended.last_line}" if ended.last_line and ended.code > 0 else ""
        return f"{ended.name} {ended.how}{said}; it is started again{log}"

    def _end_valkey(self) -> None:
        if self._valkey is not None and self._folder is not None:
            self._valkey.release(time.monotonic() + VALKEY_STOP_SECONDS)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._valkey = self._folder = None

    def _record(self) -> dict[str, Any]:
        try:
            found = json.loads((self.home / RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_record(self) -> None:
        pid = os.getpid()
        record = {
            "url": self.redis_url,
            "folder": str(self._folder),
            "pid": pid,
            "pid_started": processes.started(pid),
            "boot_id": processes.boot_id(),
            "host": processes.host(),
        }
        new = self.home / f"{RECORD}.{pid}"
        try:
            new.unlink(missing_ok=True)
            with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                json.dump(record, file)
            new.replace(self.home / RECORD)
        except OSError as error:
            raise StorageError(f"{new}: {error.strerror or error}") from error

    def _who(self) -> str:
        record = self._record()
        return f" (process {record['pid']} on {record.get('host')})" if "pid" in record else ""


def _put_aside(log: Path) -> None:
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))


@contextlib.contextmanager
def local_stack(home: Path, crew: Crew | None = None) -> Iterator[Stack]:
    """The local stack of this home, ours or somebody else's, until the block ends; then what is ours ends too.

    Call it from the main thread, which has to outlive it. Raises StorageError (folders, Valkey, a lock that stays) or
    UsageError (no Valkey for this machine).
    """
    stack = Stack(home, crew if crew is not None else Crew(log=home.absolute() / WORKER_LOG))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
