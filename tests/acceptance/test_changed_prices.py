"""Prices that change between a run and its rerun: each call keeps the price that it was counted by, and the cap counts both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.servers import SandboxProcess


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


def test_a_rerun_at_other_prices_tells_both_and_the_cap_counts_both(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    def priced(given: str, made: str) -> Path:
        pricing = {"input_token_cost": given, "output_token_cost": made}
        key = {"id": "k", "secret": "sk-prices", "pricing": pricing}
        return write_config(sandbox.url, providers=["openai"], keys={"openai": [key]})

    config = priced("1", "10")
    lines = write_lines([{"id": f"p{n}", "prompt": f"Question {n}?", "model": "m", "max_tokens": 9} for n in range(5)])
    assert cli("run", lines, "--max-cost", "100", "-c", config).returncode == 0
    config = priced("3", "0.5")
    forced = cli("rerun", 1, "--status", "succeeded", "--force", "--id", "p1", "--id", "p3", "-c", config)
    assert "2 succeeded jobs are queued again" in forced.stderr
    assert cli("run", lines, "-c", config).returncode == 0
    rows = json.loads(cli("costs", "--by", "price,rerun", "--json", "-c", config).stdout)["rows"]
    terms = {
        "configuration: USD 1000.00 in, 10000.00 out": (1, 10),
        "configuration: USD 3000.00 in, 500.00 out": (3, Decimal("0.5")),
    }
    assert {(row["price"], row["rerun"]): row["calls"] for row in rows} == {
        ("configuration: USD 1000.00 in, 10000.00 out", "never rerun"): 3,
        ("configuration: USD 1000.00 in, 10000.00 out", "before rerun"): 2,
        ("configuration: USD 3000.00 in, 500.00 out", "since rerun"): 2,
    }
    for row in rows:
        given, made = terms[row["price"]]
        assert Decimal(row["cost"]) * 1000 == row["input_tokens"] * given + row["output_tokens"] * made
    assert len(sandbox.log()) == 7
    verified = cli("verify", 1, "-c", config)  # the cap, too
    assert verified.returncode == 0, verified.stdout
