"""Estimates: arithmetic by hand, limits of keys and pools, bounds by max_tokens, and a pilot that knows better. No call is made."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.config_file import load_config_text
from models.prices import Cost
from submit.batch_options import BatchOptions
from submit.forecast import ASSUMED_OUTPUT_TOKENS, Average, Forecast, forecast
from submit.source import opened
from tests.servers import SandboxProcess

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

PRICED = "pricing: {input_token_cost: 0.001, output_token_cost: 0.002}"


@pytest.fixture
def cli(quick_cli: Cli) -> Cli:
    return quick_cli


def config_of(keys: str, *, provider: str = "openai", more: str = "") -> str:
    return f"providers:\n  - id: {provider}\n    keys:\n{keys}{more}"


def key(name: str, rest: str) -> str:
    return f"      - {{id: {name}, secret: sk-forecast-{name}, {rest}}}\n"


def guess(tmp_path: Path, text: str, lines: list[dict[str, Any]], known: Any = None) -> Forecast:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with opened(str(path)) as source:
        return forecast(source, load_config_text(text, environ={}), BatchOptions(), known)


def test_tokens_and_money_are_what_one_adds_up_by_hand(tmp_path: Path) -> None:
    lines = [{"model": "gpt-4o", "prompt": "x" * 350, "max_tokens": 100}] * 10
    (group,) = guess(tmp_path, config_of(key("a", PRICED)), lines).groups
    role = len("user")
    per_line = round((350 + role) / 3.5) + 4
    assert (group.lines, group.input_tokens, group.output_tokens) == (10, per_line * 10, 1000)
    assert (group.most_output_tokens, group.unbounded) == (1000, 0)
    assert group.cost == Cost(per_line * 10 * 1_000 + 1000 * 2_000, "USD") == group.most_cost


def test_many_short_lines_are_no_long_input_and_a_dear_tier_is_priced_as_what_it_is(tmp_path: Path) -> None:
    text = config_of(key("a", "limit_req_per_min: 1"), provider="gemini", more="price_list: genai-prices\n")
    lines = [{"model": "gemini-2.5-pro", "prompt": "x" * 3_496, "max_tokens": 100}] * 1_000
    (group,) = guess(tmp_path, text, lines).groups
    assert group.input_tokens == 1_005_000, "more than the 200,000 from which one input would cost more"
    assert group.cost == Cost(1_005_000 * 1_250 + 100_000 * 10_000, "USD")
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], "max_tokens": 10}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    dear = {**line, "body": {**body, "service_tier": "priority"}}
    tiers = config_of(key("a", PRICED.replace("002}", "002, tier_factors: {priority: 3}}")))
    (priority,) = guess(tmp_path, tiers, [dear]).groups
    by_hand = priority.input_tokens * 1_000 + 10 * 2_000
    assert priority.cost == Cost(by_hand * 3, "USD") == priority.most_cost
    assert guess(tmp_path, config_of(key("a", PRICED)), [dear]).groups[0].cost is None


def test_without_a_bound_nothing_is_promised_at_most(tmp_path: Path) -> None:
    (group,) = guess(tmp_path, config_of(key("a", PRICED)), [{"model": "gpt-4o", "prompt": "x"}]).groups
    assert group.output_tokens == ASSUMED_OUTPUT_TOKENS
    assert (group.unbounded, group.most_cost) == (1, None)
    assert group.cost is not None


def test_claude_is_bounded_by_what_is_filled_in(tmp_path: Path) -> None:
    text = config_of(key("a", PRICED), provider="claude", more="    max_tokens: 50\n")
    (group,) = guess(tmp_path, text, [{"model": "claude-x", "prompt": "x"}]).groups
    assert (group.output_tokens, group.most_output_tokens, group.unbounded) == (50, 50, 0)


def test_a_range_goes_from_the_cheapest_key_to_the_dearest(tmp_path: Path) -> None:
    dear = "pricing: {input_token_cost: 0.01, output_token_cost: 0.02}"
    line = {"model": "gpt-4o", "prompt": "x", "max_tokens": 10}
    (group,) = guess(tmp_path, config_of(key("a", PRICED) + key("b", dear)), [line]).groups
    assert group.cost is not None
    assert group.most_cost == Cost(group.cost.nanos * 10, "USD")


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        (key("a", "limit_req_per_min: 60"), 600.0),
        (key("a", "limit_req_per_min: 60, use: 0.5"), 1200.0),
        (key("a", "limit_req_per_min: 60") + key("b", "limit_req_per_min: 240"), 120.0),
        (key("a", "limit_req_per_min: 60, pool: p") + key("b", "limit_req_per_min: 60, pool: p"), 600.0),
        (key("a", "limit_req_per_min: 60") + key("b", PRICED), None),
        (key("a", "limit_req_per_min: 60, models: {gpt-4o: {limit_req_per_min: 30}}"), 1200.0),
        (key("a", "limit_tokens_per_min: 600"), 600 * (5 + 5) / 600 * 60),
    ],
)
def test_the_limits_tell_how_long_it_takes(tmp_path: Path, keys: str, seconds: float | None) -> None:
    lines = [{"model": "gpt-4o", "prompt": ".", "max_tokens": 5}] * 600
    assert guess(tmp_path, config_of(keys), lines).slowest == seconds


def test_a_pilot_knows_better(tmp_path: Path) -> None:
    known = {("openai", "gpt-4o"): Average(12.5, 40.0, 1_000.5, "EUR")}
    lines = [{"model": "gpt-4o", "prompt": "x"}] * 1000
    (group,) = guess(tmp_path, config_of(key("a", PRICED)), lines, known).groups
    assert (group.input_tokens, group.output_tokens, group.measured) == (12_500, 40_000, True)
    assert group.cost == Cost(1_000_500, "EUR")


def test_the_command_makes_no_call_and_stores_nothing(
    cli: Cli, sandbox: SandboxProcess, write_config: Callable[..., Path], write_lines: Any, tmp_path: Path
) -> None:
    write_config(sandbox.url, routes={"smart": {"candidates": ["gemini/gemini-x", "claude/claude-x"]}})
    lines = [
        {"prompt": "a", "model": "gpt-4o"},
        {"prompt": "b", "route": "smart"},
        {"prompt": "c", "model": "claude-x"},
    ]
    run = cli("estimate", write_lines(lines), "--json")
    assert run.returncode == 0, run.stderr
    tree = json.loads(run.stdout)
    assert [(g["provider"], g["model"], g["lines"]) for g in tree["groups"]] == [
        ("openai", "gpt-4o", 1),
        ("gemini", "gemini-x", 1),
        ("claude", "claude-x", 1),
    ]
    assert any("first candidate, gemini/gemini-x" in note for note in tree["notes"])
    assert sandbox.log() == []
    assert not (tmp_path / "home" / "truckllm.db").exists()
    assert "3 lines: " in cli("estimate", write_lines(lines)).stdout
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n")
    assert cli("estimate", bad).returncode == 2


def test_a_pilot_is_projected_to_the_whole_file(
    cli: Cli, sandbox: SandboxProcess, write_config: Callable[..., Path], write_lines: Any
) -> None:
    write_config(sandbox.url)
    lines = write_lines([{"prompt": f"say {n}", "model": "gpt-4o"} for n in range(100)])
    pilot = cli("run", lines, "--limit", 10)
    assert pilot.returncode == 0, pilot.stderr
    assert f"`truckllm estimate {lines} --from 1`" in pilot.stdout
    (row,) = json.loads(cli("costs", "--batch", 1, "--json").stdout)["totals"]
    (group,) = json.loads(cli("estimate", lines, "--from", 1, "--json").stdout)["groups"]
    assert group["measured"]
    assert (group["lines"], group["input_tokens"]) == (100, row["input_tokens"] * 10)
    assert float(group["cost"]) == pytest.approx(float(row["cost"]) * 10)
    assert "there is no batch 9" in cli("estimate", lines, "--from", 9).stderr
