"""A price list that is switched on, end to end: the ledger's costs, the cheapest candidate, the cap, and what is said of prices."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.servers import SandboxProcess

PER_MILLION = {"gemini-3.5-flash": (Decimal("1.5"), Decimal(9)), "claude-haiku-4-5": (Decimal(1), Decimal(5))}
"""What the list says of input and output, which all of these calls are."""


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


def test_costs_routes_and_caps_go_by_the_list(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    keys: dict[str, list[dict[str, Any]]] = {
        name: [{"id": "k", "secret": f"sk-{name}"}] for name in ("gemini", "claude")
    }
    route = {"candidates": ["gemini/gemini-3.5-flash", "claude/claude-haiku-4-5"], "strategy": "cost_first"}
    config = write_config(
        sandbox.url,
        providers=["gemini", "claude"],
        keys=keys,
        routes={"cheap": route},
        price_list="genai-prices",
    )
    lines = [{"prompt": f"Question {n}", "route": "cheap", "max_tokens": 50} for n in range(6)]
    lines += [{"prompt": f"Question {n}", "model": "gemini-3.5-flash", "provider": "gemini"} for n in range(4)]
    lines += [{"prompt": "x", "model": "claude-of-our-own", "provider": "claude"}]
    done = cli("run", write_lines(lines), "-c", config)
    assert done.returncode == 0, done.stderr
    assert "prices by genai-prices" in done.stderr
    assert "claude/claude-haiku-4-5 (1.00 USD in, 5.00 USD out)" in done.stderr
    assert done.stderr.count("UNPRICED: claude/claude-of-our-own has no price") == 1
    assert "UNPRICED: 1 call used" in done.stdout
    report = json.loads(cli("costs", "--json", "-c", config).stdout)
    rows = {row["model"]: row for row in report["rows"]}
    assert {name: row["calls"] for name, row in rows.items()} == {
        "claude-haiku-4-5": 6,  # the cheaper one has room for all that may choose
        "gemini-3.5-flash": 4,
        "claude-of-our-own": 1,
    }
    for model, (given, made) in PER_MILLION.items():
        row = rows[model]
        by_hand = (row["input_tokens"] * given + row["output_tokens"] * made) / 1_000_000
        assert Decimal(row["cost"]) == by_hand > 0
    assert rows["claude-of-our-own"]["cost"] is None
    by_price = json.loads(cli("costs", "--json", "--by", "model,price", "-c", config).stdout)["rows"]
    told = {row["model"]: row["price"] for row in by_price}
    assert told["claude-haiku-4-5"].startswith("genai-prices ")
    assert ": USD 1.00 in, " in told["claude-haiku-4-5"]
    assert told["claude-of-our-own"] == "no cost known"
    calls = len(sandbox.log())
    # a call may cost 1,000 x 5 / 1,000,000 = 0.005 USD and a little for its prompt
    dear = [{"prompt": "x", "model": "claude-haiku-4-5", "provider": "claude", "max_tokens": 1_000}]
    capped = cli("run", write_lines(dear, "dear.jsonl"), "--max-cost", "0.004", "-c", config)
    assert capped.returncode == 3, capped.stderr
    assert "cap: 0.004 USD" in capped.stdout
    assert len(sandbox.log()) == calls
