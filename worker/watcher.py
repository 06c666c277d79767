"""The small process beside each worker that ends it when it hangs: also one whose hang holds Python's own lock, in which no other
thread of it can do anything. `worker.watchdog` starts it, as a script that needs nothing but the standard library.

It counts its own ticks, not time: a machine that stood still has counted none, and those of a worker that was stopped don't count.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

BEATS = 0
"""The file descriptor that the worker's beats come through; its end of file means that the worker has ended."""

LAST_WORDS = signal.SIGALRM
"""Has the worker write down where its threads stand, and end."""

LAST_SECONDS = 2.0
"""How long that may take."""
LAST_TICK = 0.1

DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Blocked in it from its start: they are sent to all processes of a service or terminal at once, and the worker needs its watcher
while it finishes its calls."""


def watch(pid: int, tick: float, patience: int) -> None:
    """Watches a worker until it ends; ends it after `patience` ticks of `tick` seconds without a beat."""
    missed = 0
    while missed < patience:
        if select.select([BEATS], [], [], tick)[0]:
            if not os.read(BEATS, 4096):
                return
            missed = 0
        else:
            missed = 0 if stopped(pid) else missed + 1
    say(
        f"the event loop of process {pid} has hung for {tick * patience:.0f} s: it is ended, and its jobs are given back"
    )
    os.kill(pid, LAST_WORDS)
    if not _over(LAST_SECONDS):
        os.kill(pid, signal.SIGKILL)


def _over(seconds: float) -> bool:
    """Whether the worker ends within this time, counted in ticks too."""
    for _ in range(round(seconds / LAST_TICK)):
        if select.select([BEATS], [], [], LAST_TICK)[0] and not os.read(BEATS, 4096):
            return True
    return False


def stopped(pid: int) -> bool:
    """Whether a process stands still because somebody has stopped it (SIGSTOP, Ctrl-Z, a debugger)."""
    try:
        if sys.platform == "linux":
            state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        else:
            state = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True).stdout  # noqa: S607 - where it lies differs
    except (OSError, IndexError):
        return False
    return state[:1] in ("T", "t")


def say(sentence: str) -> None:
    """A line of the worker's log."""
    now = f"{time.strftime('%Y-%m-%d %H:%M:%S')},{int(time.time() * 1000) % 1000:03d}"
    with contextlib.suppress(OSError):  # a full disk under the log
        os.write(2, f"{now} CRITICAL truckllm.watchdog: {sentence}\n".encode())


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
