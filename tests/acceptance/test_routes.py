"""Routes: all candidates' limits work at once, in the strategy's order; shares and makespan as each strategy promises."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.servers import SandboxProcess

PRICES = {"openai": "0.01", "gemini": "0.001", "claude": "0.005"}
MODELS = {"openai": "gpt-a", "gemini": "gemini-a", "claude": "claude-a"}
RPM = 1200
MOST_OF_400 = 250
"""A machine that stands still may silence a candidate, and each of the two others then takes 64 once; without an order they take most."""


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
    concurrency: int = 256,
) -> tuple[Counter[str], float]:
    """How many of `number` jobs each provider answered, and the share of all calls that came while all of them were at work: by the
    order in the sandbox's log, which a machine that stands still doesn't change."""
    config = write_config(
        sandbox.url,
        keys={provider: [key(provider, rpm.get(provider))] for provider in MODELS},
        worker={"concurrency": concurrency},
        routes={"any": {"candidates": [f"{p}/{MODELS[p]}" for p in MODELS], "strategy": strategy}},
    )
    prompts = write_lines([{"route": "any", "prompt": f"Question {n}"} for n in range(number)])
    done = cli("run", prompts, "-c", config, seconds=90)
    assert done.returncode == 0, done.stderr
    log = sandbox.log()
    assert len(log) == number
    names = [row["provider"] for row in log]
    last = {name: place for place, name in enumerate(names)}
    together = min(last.values()) - max(names.index(name) for name in last) + 1
    return Counter(names), together / number


def test_cost_first_takes_the_cheapest_while_it_has_room(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    share, _ = shares("cost_first", 400, {}, sandbox, write_config, write_lines, cli, concurrency=512)
    assert share["gemini"] >= MOST_OF_400


def test_cost_first_fills_the_cheapest_and_lets_all_limits_work_at_once(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    limits: dict[str, int | None] = dict.fromkeys(MODELS, RPM)
    share, together = shares("cost_first", 450, limits, sandbox, write_config, write_lines, cli)
    assert share["gemini"] == max(share.values())
    assert min(share.values()) >= 100, "limits are equal, so the work nearly is: nobody waits for a cheaper one"
    assert together >= 0.75, "0.9 and more, 0.7 when one is told seconds late that another is full, near 0 in turn"


def test_priority_takes_the_first_of_the_list_while_it_has_room(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    share, _ = shares("priority", 400, {}, sandbox, write_config, write_lines, cli, concurrency=512)
    assert share["openai"] >= MOST_OF_400


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
    share, _ = shares("latency_first", 900, {}, sandbox, write_config, write_lines, cli, concurrency=32)
    assert share["claude"] > share["openai"] + share["gemini"]
