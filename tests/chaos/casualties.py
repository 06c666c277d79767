"""A worker process of a scenario, and what was done to workers: when one was killed, when one was stopped.

It does nothing to any of them; the ground does.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Worker:
    """A worker process. `marker`: where a doomed one writes the moment of its death."""

    process: subprocess.Popen[bytes]
    output: Path
    point: str
    marker: Path
    over: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None


@dataclass(frozen=True, slots=True)
class Kill:
    """When (unix seconds) a worker was killed, and at what point."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Stop:
    """When (unix seconds) a worker was stopped, and its number in the database then."""

    at: float
    worker: int
