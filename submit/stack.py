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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models import processes
from models.crew import Crew, Plan
from models.errors import StorageError
from models.processes import Child
from submit import valkey

LOCK = "stack.lock"
RECORD = "stack.json"
WORKER_LOG = "worker.log"
JOIN_SECONDS = 15.0
"""How long a newcomer waits for an owner that is starting or ending."""

LOOK_SECONDS = 1.0
"""How often one that is attached looks whether the owner is still there."""

VALKEY_STOP_SECONDS = 3.0


class Stack:
    """A running local stack. `redis_url` may change when another owner takes over; `tick` says so."""

    def __init__(self, home: Path, plan: Plan, *, always: bool = False) -> None:
        self.home = home.absolute()
        self.crew = Crew(plan)
        self.always = always
        self.redis_url = ""
        self.owner = False
        self._lock: int | None = None
        self._folder: Path | None = None
        self._valkey: Child | None = None
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
            try:
                told += [f"{ended.name} {ended.how}; it is started again" for ended in [self._valkey.tick()] if ended]
            except OSError as error:  # no memory, no process left
                told.append(f"{self._valkey.name} can't be started now: {error.strerror or error}; it is tried again")
        elif time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            told += self._look()
        return told + self.crew.tick()

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ends what is ours: workers finish their calls within the grace (the plan's by default), then Valkey goes."""
        try:
            self.crew.stop(grace_seconds)
        finally:
            self._end_valkey()
            if self._lock is not None:
                if self.owner:
                    (self.home / RECORD).unlink(missing_ok=True)
                os.close(self._lock)
            self._lock, self.owner = None, False

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
        self.redis_url = valkey.url(self._folder)
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
        url = valkey.url(folder)
        if url != self.redis_url:
            self.redis_url = url
            if self.always:
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
        self.crew.start({"TRUCKLLM_HOME": str(self.home), "TRUCKLLM_REDIS_URL": self.redis_url})

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


@contextlib.contextmanager
def local_stack(home: Path, plan: Plan, *, always: bool = False) -> Iterator[Stack]:
    """The local stack of this home, ours or somebody else's, until the block ends; then what is ours ends too.

    The plan's workers run when the stack is ours; with `always` also beside a stack that somebody else owns.
    Call it from the main thread, which has to outlive it. Raises StorageError (folders, Valkey, a lock that stays) or
    UsageError (no Valkey for this machine).
    """
    stack = Stack(home, plan, always=always)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
