"""A limit by day over the real command: exactly so many calls reach a server that enforces the same, and the rest is shown as waiting."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.days import day_at
from submit.shapes import iso
from tests.conftest import SECRETS
from tests.servers import TRUCKLLM, SandboxProcess, wait_for

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
LIMIT = 15


def a_provider_whose_day_does_not_end() -> tuple[str, str]:
    """Returns one of the sandbox's providers and the time zone of its days, of which none ends within the hour."""
    zones = {"openai": "UTC", "gemini": "America/Los_Angeles"}
    return max(zones.items(), key=lambda one: day_at(one[1], time.time()).end - time.time())


class Day:
    """A batch of 40 rows for a key with a limit by day, which the sandbox enforces as well."""

    def __init__(
        self, cli: Cli, sandbox: SandboxProcess, write_config: Any, write_lines: Any, folder: Path, processes: int
    ) -> None:
        self.provider, self.zone = a_provider_whose_day_does_not_end()
        self.cli, self.sandbox, self.folder = cli, sandbox, folder
        secret = SECRETS[self.provider]
        sandbox.accounts({"provider": self.provider, "key": secret, "rpd": LIMIT})
        self.config = write_config(
            sandbox.url,
            keys={self.provider: [{"id": "k", "secret": secret, "limit_req_per_day": LIMIT}]},
            settings={self.provider: {"day_resets": self.zone}},
            providers=(self.provider,),
            worker={"processes": processes},
        )
        self.lines = write_lines(
            [{"id": str(n), "provider": self.provider, "model": "m", "prompt": f"p{n}"} for n in range(40)]
        )
        self.output = folder / "output"

    def read(self, *arguments: object) -> Any:
        return json.loads(self.cli(*arguments, "--json", "-c", self.config).stdout)

    @contextlib.contextmanager
    def running(self, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        """Runs the batch until the block ends."""
        with self.output.open("w") as out:
            process = subprocess.Popen(
                [*TRUCKLLM, "run", str(self.lines), "-c", str(self.config)],
                cwd=self.folder, env=environment, stdout=out, stderr=out,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)
        assert process.returncode == 130, self.output.read_text()

    def wait_until_used_up(self, environment: dict[str, str], times: int) -> None:
        """Waits until workers have found the day used up so often."""
        log = Path(environment["TRUCKLLM_HOME"]) / "worker.log"
        wait_for(lambda: log.read_text().count("no call starts until") >= times, "a day that is used up", 60)


@pytest.fixture
def make_day(
    cli: Cli, sandbox: SandboxProcess, write_config: Any, write_lines: Any, tmp_path: Path
) -> Callable[[int], Day]:
    return lambda processes: Day(cli, sandbox, write_config, write_lines, tmp_path, processes)


def test_exactly_the_limit_reaches_the_server_and_the_rest_waits(
    make_day: Callable[[int], Day], environment: dict[str, str]
) -> None:
    day = make_day(2)
    assert "2.7 days at this quota" in day.cli("estimate", day.lines, "-c", day.config).stdout
    with day.running(environment) as process:
        end = iso(day_at(day.zone, time.time()).end) or ""
        said = f"no call starts until {end.replace('T', ' ').replace('Z', ' UTC')}"
        wait_for(lambda: said in day.output.read_text(), "the limit by day in the run's output", 60)
        wait_for(lambda: len(day.sandbox.log()) >= LIMIT, "the calls of the day", 60)
        status = day.read("status", "1")
        assert process.poll() is None, "it waits for the next day"
        (wait,) = status["cooldowns"]
        assert (wait["configured"], wait["model"]) == (True, None)
        assert status["blocked"] is None
        ((shown,),) = (key["days"] for key in day.read("keys")["keys"])
        assert (shown["limit"], shown["used"], shown["zone"]) == (LIMIT, LIMIT, day.zone)
        assert "days of work" in day.cli("doctor", "-c", day.config).stdout
    assert Counter(call["status"] for call in day.sandbox.log()) == {200: LIMIT}, day.output.read_text()
    status = day.read("status", "1")
    assert (status["succeeded"], status["failed"], status["queued"]) == (LIMIT, 0, 40 - LIMIT)


@pytest.mark.full
def test_the_next_run_of_the_day_makes_no_call_more(
    make_day: Callable[[int], Day], environment: dict[str, str]
) -> None:
    """Everything that the first run had started is gone, Redis too: the day is read from the ledger."""
    day = make_day(1)
    for times in (1, 2):
        with day.running(environment):
            wait_for(lambda: len(day.sandbox.log()) >= LIMIT, "the calls of the day", 60)
            day.wait_until_used_up(environment, times)
    assert Counter(call["status"] for call in day.sandbox.log()) == {200: LIMIT}
