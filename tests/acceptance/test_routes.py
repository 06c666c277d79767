"""Routes: all candidates' limits work at once, in the strategy's order; shares and makespan as each strategy promises."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.conftest import SandboxProcess

PRICES = {"openai": "0.01", "gemini": "0.001", "claude": "0.005"}
MODELS = {"openai": "gpt-a", "gemini": "gemini-a", "claude": "claude-a"}
RPM = 600


def key(provider: str, rpm: int | None) -> dict[str, object]:
    limits = {"limit_req_per_min": rpm} if rpm else {}
    price = {"input_token_cost": PRICES[provider], "output_token_cost": PRICES[provider]}
    return {"id": "k", "secret": f"{provider}-s", "pricing": price, **limits}


def shares(
    strategy: str,
    number: int,
    rpm: dict[str, int | None],
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> tuple[Counter[str], float]:
    """How many of `number` jobs each provider answered, and the seconds from the first call to the last."""
    config = write_config(
        sandbox.url,
        keys={provider: [key(provider, rpm.get(provider))] for provider in MODELS},
        worker={"concurrency": 32},
        routes={"any": {"candidates": [f"{p}/{MODELS[p]}" for p in MODELS], "strategy": strategy}},
    )
    prompts = write_lines([{"route": "any", "prompt": f"Question {n}"} for n in range(number)])
    done = cli("run", prompts, "-c", config, seconds=90)
    assert done.returncode == 0, done.stderr
    log = sandbox.log()
    times = [row["at"] for row in log]
    assert len(log) == number
    return Counter(row["provider"] for row in log), max(times) - min(times)


def test_cost_first_takes_the_cheapest_while_it_has_room(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    share, _ = shares("cost_first", 300, {}, sandbox, write_config, write_lines, cli)
    assert share == {"gemini": 300}


def test_cost_first_fills_the_cheapest_then_the_next_and_takes_as_long_as_all_limits_together(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    limits: dict[str, int | None] = dict.fromkeys(MODELS, RPM)
    share, seconds = shares("cost_first", 450, limits, sandbox, write_config, write_lines, cli)
    assert share["gemini"] >= share["claude"] >= share["openai"] > 0
    best = 450 / (3 * RPM / 60)
    assert seconds <= best * 1.25, "three limits work at once"


def test_priority_takes_the_first_of_the_list_while_it_has_room(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    share, _ = shares("priority", 300, {}, sandbox, write_config, write_lines, cli)
    assert share == {"openai": 300}


def test_round_robin_gives_equal_shares(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    share, _ = shares("round_robin", 600, {}, sandbox, write_config, write_lines, cli)
    assert max(share.values()) - min(share.values()) <= 48


def test_latency_first_goes_to_the_fastest_once_it_is_known(
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    sandbox = start_sandbox(
        faults=[{"kind": "slow", "provider": p, "delay": s} for p, s in (("openai", 0.6), ("gemini", 0.4))]
    )
    share, _ = shares("latency_first", 900, {}, sandbox, write_config, write_lines, cli)
    assert share["claude"] > share["openai"] + share["gemini"]
