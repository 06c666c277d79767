"""A limit by day over the real command: exactly so many calls reach a server that enforces the same, and the rest is shown as waiting."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
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


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.full), 2])
def test_exactly_the_limit_reaches_the_server_and_the_rest_waits(
    processes: int,
    cli: Cli,
    sandbox: SandboxProcess,
    write_config: Any,
    write_lines: Any,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    provider, zone = a_provider_whose_day_does_not_end()
    sandbox.accounts({"provider": provider, "key": SECRETS[provider], "rpd": LIMIT})
    key = {"id": "k", "secret": SECRETS[provider], "limit_req_per_day": LIMIT}
    config = write_config(
        sandbox.url,
        keys={provider: [key]},
        settings={provider: {"day_resets": zone}},
        providers=(provider,),
        worker={"processes": processes},
    )
    lines = write_lines([{"id": str(n), "provider": provider, "model": "m", "prompt": f"p{n}"} for n in range(40)])
    assert "2.7 days at this quota" in cli("estimate", lines, "-c", config).stdout
    output = tmp_path / "output"
    with output.open("w") as out:
        process = subprocess.Popen(
            [*TRUCKLLM, "run", str(lines), "-c", str(config)], cwd=tmp_path, env=environment, stdout=out, stderr=out
        )
    try:
        said = f"no call starts until {iso(day_at(zone, time.time()).end)}".replace("T", " ").replace("Z", " UTC")
        wait_for(lambda: said in output.read_text(), "the limit by day in the run's output", 60)
        wait_for(lambda: len(sandbox.log()) >= LIMIT, "the calls of the day", 60)
        status = json.loads(cli("status", "1", "--json", "-c", config).stdout)
        assert process.poll() is None, "it waits for the next day"
        (wait,) = status["cooldowns"]
        assert (wait["configured"], wait["model"]) == (True, None)
        assert status["blocked"] is None
        (shown,) = json.loads(cli("keys", "--json", "-c", config).stdout)["keys"]
        (day,) = shown["days"]
        assert (day["limit"], day["used"], day["zone"]) == (LIMIT, LIMIT, zone)
        assert "days of work" in cli("doctor", "-c", config).stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(90)
    assert Counter(call["status"] for call in sandbox.log()) == {200: LIMIT}, output.read_text()
    status = json.loads(cli("status", "1", "--json", "-c", config).stdout)
    assert (status["succeeded"], status["failed"], status["queued"]) == (LIMIT, 0, 40 - LIMIT)
    assert process.returncode == 130
