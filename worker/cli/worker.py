"""`truckllm worker`: work on what is queued, in this process or in several that are kept running.

It parses options and supervises; the work is `worker.process`. The local stack belongs to the other room, so it is handed in.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Protocol

import typer

from models.config import Config
from models.config_file import load_config
from models.crew import Crew, Plan, stop_signals
from models.database import home, home_path
from models.permissions import exposed
from models.processes import die_with_parent

TICK_SECONDS = 0.2


class LocalStack(Protocol):
    """What this command needs of a running local stack."""

    @property
    def owner(self) -> bool: ...

    @property
    def crew(self) -> Crew: ...

    def tick(self) -> list[str]: ...


class Join(Protocol):
    """Starts or joins the local stack of a state folder, with the plan's workers beside it in any case."""

    def __call__(self, home: Path, plan: Plan, *, always: bool) -> AbstractContextManager[LocalStack]: ...


def command(join: Join) -> Callable[..., None]:
    """The command, for a program that knows how to start or join the local stack."""

    def worker(
        provider: Annotated[
            list[str] | None, typer.Option(help="Serve only this provider; may be given several times.")
        ] = None,
        processes: Annotated[
            int | None, typer.Option(min=1, help="Worker processes. [default: worker.processes of the configuration]")
        ] = None,
        config: Annotated[Path | None, typer.Option("-c", "--config", help="Configuration file.")] = None,
        parent_pipe: Annotated[int | None, typer.Option(hidden=True)] = None,
        alone_for: Annotated[int | None, typer.Option(hidden=True)] = None,
    ) -> None:
        """Work on what is queued, until SIGTERM or Ctrl-C: then calls in flight are finished, and a second one gives up.

        With a Redis URL in the configuration it serves that; without one it starts or joins the local stack of TRUCKLLM_HOME.
        """
        if parent_pipe is not None:
            die_with_parent()
        settings = load_config(config, secrets=True)
        if parent_pipe is None:
            for sentence, mend in exposed(settings.path, home_path()):
                typer.echo(f"warning: {sentence}; `{mend}`", err=True)
        names = _known(settings, provider or [])
        count = processes or settings.worker.processes
        if settings.redis_url is not None and (count == 1 or alone_for is not None):
            raise typer.Exit(_serve(settings, settings.redis_url, names, parent_pipe, alone_for))
        plan = Plan.of(settings, processes=count, providers=names, may_end=True)
        if settings.redis_url is not None:
            _supervise(plan)
        else:
            _join(join, plan)

    return worker


def _known(config: Config, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(config.provider(name).id for name in names))


def _serve(
    config: Config, redis_url: str, providers: Sequence[str], parent_pipe: int | None, alone_for: int | None
) -> int:
    from worker.process import main

    url = config.database_url
    return main(config, url, redis_url, providers or None, parent_pipe=parent_pipe, alone_for=alone_for)


def _supervise(plan: Plan) -> None:
    crew = Crew(plan)
    with stop_signals() as stopping:
        try:
            crew.start()
            _look_after(crew, crew.tick, stopping)
        finally:
            crew.stop()


def _join(join: Join, plan: Plan) -> None:
    with stop_signals() as stopping, join(home(), plan, always=True) as stack:
        _say("serves the local stack" + ("" if stack.owner else ", which another process owns"))
        _look_after(stack.crew, stack.tick, stopping)


def _look_after(crew: Crew, tick: Callable[[], list[str]], stopping: Callable[[], bool]) -> None:
    while not stopping():
        for told in tick():
            _say(told)
        if crew.gone:
            return
        time.sleep(TICK_SECONDS)
    _say("stopping: calls in flight are finished; once more gives them up")


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # a full disk under the log must not end the work
        print(f"truckllm worker: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
