"""A crew: the worker processes that one process starts through our own script, keeps running and ends.

It doesn't know what they do, and it starts no server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from models.config import Config
from models.errors import UsageError
from models.processes import Child, Ended, end_signals, stop_all

LOG_BYTES = 8 * 1024 * 1024
"""A longer log is put aside (as worker.log.1) before a crew starts."""

FIX_FIRST = UsageError.exit_code
"""Exit code of a worker whose configuration is wrong: starting it again won't help."""

OURS = (sys.executable, "-P", "-m", "truckllm", "worker")
"""Our script. -P: a models.py in the user's working directory must not take the place of ours."""


RECORD_SECONDS = 20.0
"""What a worker may need beyond its grace to store what it has and to give the rest back."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many worker processes, for which providers (empty: all), and how one is started.

    `log`: where their output goes; None for our own stderr. `grace_seconds`: how long they may finish calls at the end. `may_end`: one
    that ends with exit code 0, as it does when a person drains it, isn't started again.
    """

    processes: int = 1
    config_path: Path | None = None
    providers: tuple[str, ...] = ()
    grace_seconds: float = 60.0
    log: Path | None = None
    command: tuple[str, ...] = OURS
    may_end: bool = False

    @classmethod
    def of(
        cls,
        config: Config,
        *,
        processes: int | None = None,
        providers: tuple[str, ...] = (),
        log: Path | None = None,
        may_end: bool = False,
    ) -> Plan:
        """What a configuration asks for; `processes` and `providers` overrule it."""
        return cls(
            processes=processes or config.worker.processes,
            config_path=config.path.absolute() if config.path else None,
            providers=providers,
            grace_seconds=config.worker.grace_seconds + RECORD_SECONDS,
            log=log,
            may_end=may_end,
        )


class Crew:
    """The processes of a plan. Start it from the main thread."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._children: list[Child] = []

    @property
    def pids(self) -> list[int]:
        """The process ids of those that live."""
        return [pid for child in self._children if (pid := child.pid) is not None]

    @property
    def gone(self) -> bool:
        """Whether all of them have ended for good."""
        return bool(self._children) and all(child.process is None for child in self._children)

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Starts them with these environment variables over our own; those of an earlier start are stopped first."""
        self.stop()
        plan = self.plan
        command = [*plan.command, "--processes", "1", "--parent-pipe", "0"]
        if plan.config_path is not None:
            command += ["-c", str(plan.config_path)]
        for provider in plan.providers:
            command += ["--provider", provider]
        if plan.log is not None:
            _put_aside(plan.log)
        env = {**os.environ, **(settings or {})}
        self._children = [
            Child(f"worker process {number}", command, env=env, log=plan.log, may_end=plan.may_end)
            for number in range(1, plan.processes + 1)
        ]
        for child in self._children:
            child.start()

    def tick(self) -> list[str]:
        """Starts again those that died; what happened, in sentences. Raises UsageError when one refuses its configuration."""
        told = []
        for child in self._children:
            try:
                if (ended := child.tick()) is not None:
                    told.append(self._told(ended))
            except OSError as error:
                told.append(f"{child.name} can't be started now: {error.strerror or error}; it is tried again")
        return told

    def stop(self, grace_seconds: float | None = None) -> None:
        """Ends them: SIGTERM, the grace (the plan's by default), then SIGKILL; a KeyboardInterrupt cuts the grace short."""
        children, self._children = self._children, []
        stop_all(children, self.plan.grace_seconds if grace_seconds is None else grace_seconds)

    def _told(self, ended: Ended) -> str:
        log = f" (see {self.plan.log})" if self.plan.log is not None else ""
        if ended.code == FIX_FIRST:
            raise UsageError(f"the worker can't start: {ended.last_line.removeprefix('truckllm: ') or ended.how}{log}")
        if self.plan.may_end and ended.code == 0:
            return f"{ended.name} has ended, as it was told to"
        said = f": {ended.last_line}" if ended.last_line and ended.code > 0 else ""
        return f"{ended.name} {ended.how}{said}; it is started again{log}"


def _put_aside(log: Path) -> None:
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(log.name + ".1"))


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGTERM, SIGINT or SIGHUP only makes the given function true; the second raises
    KeyboardInterrupt, which gives up whatever is being waited for. A SIGHUP that is ignored, as under nohup, stays so. Only for
    the main thread.
    """
    seen = 0

    def note(_number: int, _frame: object) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in end_signals()}
    try:
        yield lambda: seen > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
