"""Processes of this machine: who they are, a child kept running, a child tied to its parent's life.

It does not know what any of them does. A pid alone names nobody: pids are used again, so a process is named by host, boot, pid
and start time together.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

BACKOFF_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0)
"""How long a child that died is let lie, by how often in a row it died young."""

STEADY_SECONDS = 60.0
"""A child that lived so long was no early death: its next restart is at once again."""

_PR_SET_PDEATHSIG = 1
_DEAD_STATES = frozenset("ZXx")
_TAIL_BYTES = 16384
_OF_STACKS = ("  ", "Thread 0x", "Current thread 0x", "Extension modules:")


def end_signals() -> list[signal.Signals]:
    """The signals that tell a process to end: SIGTERM, SIGINT, and SIGHUP unless that is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignored else [signal.SIGHUP])]


def host() -> str:
    """This machine's name."""
    return socket.gethostname()


@functools.cache
def boot_id() -> str:
    """A name of this boot and process namespace: in another one, the same pid means something else."""
    try:
        return (Path("/proc/sys/kernel/random/boot_id").read_text().strip() + "/" + os.readlink("/proc/self/ns/pid"))[
            :64
        ]
    except OSError:
        pass
    if (session := _boot_session()) is not None:
        return session
    import psutil

    return f"{psutil.boot_time():.0f}"


def _boot_session() -> str | None:
    """macOS's own name of this boot. The time of the boot, which any system tells, moves when the clock is set."""
    if sys.platform != "darwin":
        return None
    said, size = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    if ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", said, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return said.value.decode() or None


def started(pid: int) -> float | None:
    """When the process started: seconds on some clock of this boot, only good for comparing. None: dead, or a zombie."""
    if sys.platform == "linux":
        # not psutil's: that adds the boot's wall-clock time, which moves when the clock is set
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the name in parentheses may hold spaces
        return None if fields[0] in _DEAD_STATES else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def alive(pid: int, pid_started: float, boot: str) -> bool:
    """Whether exactly this process still lives on this machine."""
    return boot == boot_id() and started(pid) == pid_started


def die_with_parent() -> None:
    """Asks Linux to kill this process when the thread that started it ends; elsewhere only the parent's pipe tells.

    A process that hangs can't read a pipe, so on Linux both are used.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def last_words(lines: Sequence[str]) -> str:
    """The last of a log's lines that is no part of a dump of stacks, cut to 300 characters; empty when there is none."""
    telling = (line for line in reversed(lines) if line.strip() and not line.startswith(_OF_STACKS))
    return next(telling, "").strip()[:300]


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that ended by itself: `code` as of subprocess (negative = by that signal), `last_line` of its log."""

    name: str
    code: int
    seconds: float
    last_line: str

    @property
    def how(self) -> str:
        """The way it ended, for people."""
        if self.code < 0:
            try:
                return f"was killed by {signal.Signals(-self.code).name}"
            except ValueError:
                return f"was killed by signal {-self.code}"
        return f"ended with exit code {self.code}"


class Child:
    """One child process, started again when it dies (with `may_end`, not after exit code 0), in a session of its own so that a terminal's Ctrl-C doesn't reach it.

    Its stdin is a pipe that only this process holds: when this process ends, however it ends, the child reads EOF.
    Start it from the main thread: `die_with_parent` is about the thread that started the child.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        may_end: bool = False,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = env
        self.log = log
        self.may_end = may_end
        self.process: subprocess.Popen[bytes] | None = None
        self.early_deaths = 0
        self._born = 0.0
        self._due: float | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it lives."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def start(self) -> None:
        """Starts it now. Its output goes to the end of `log`, or where ours goes."""
        self._due = None
        self._born = time.monotonic()
        if self.log is None:
            self._spawn(None)
            return
        with open(os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as output:
            self._log_start = output.tell()
            self._spawn(output)

    def _spawn(self, output: IO[bytes] | None) -> None:
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=self.env, start_new_session=True
        )

    def tick(self) -> Ended | None:
        """Looks after it: tells once that it died, starts it again when its time has come. Raises OSError when it can't be
        started (no memory, no process left), and tries again some seconds later."""
        now = time.monotonic()
        ended = None
        if self._due is None and self.process is not None and self.process.poll() is not None:
            lived = now - self._born
            self.early_deaths = 1 if lived >= STEADY_SECONDS else self.early_deaths + 1
            self._due = now + BACKOFF_SECONDS[min(self.early_deaths, len(BACKOFF_SECONDS)) - 1]
            self._let_go()
            ended = Ended(self.name, self.process.returncode, lived, self.last_line())
            if self.may_end and ended.code == 0:
                self.process = self._due = None
        if self._due is not None and now >= self._due:
            try:
                self.start()
            except OSError:
                if ended is not None:  # that is told first, and why it can't be started when it is tried next
                    self._due = now
                    return ended
                self._due = now + BACKOFF_SECONDS[-1]
                raise
        return ended

    def last_line(self) -> str:
        """The last line that it wrote to its log, cut to 300 characters; empty when there is none."""
        if self.log is None:
            return ""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, size - _TAIL_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return last_words(lines)

    def signal(self, number: int) -> None:
        """Sends it a signal, if it lives."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, deadline: float) -> bool:
        """Waits until it has ended, at most until `deadline` (time.monotonic). Whether it has."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        self._let_go()
        return True

    def kill(self) -> None:
        """Ends it and everything in its process group at once."""
        if self.process is None:
            return
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                self.process.kill()
        self.process.wait()
        self._let_go()

    def release(self, deadline: float) -> None:
        """Closes its stdin, which tells it to end; kills it if it hasn't by `deadline` (time.monotonic)."""
        self._let_go()
        if not self.wait(deadline):
            self.kill()

    def _let_go(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


def stop_all(children: Sequence[Child], grace_seconds: float) -> list[Child]:
    """SIGTERM to all, then `grace_seconds` for all together, then SIGKILL. Which ones had to be killed.

    A KeyboardInterrupt meanwhile (the second Ctrl-C) gives up waiting: they are killed, and it goes on to the caller.
    """
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    try:
        late = [child for child in children if not child.wait(deadline)]
    except KeyboardInterrupt:
        for child in children:
            child.kill()
        raise
    for child in late:
        child.kill()
    return late
