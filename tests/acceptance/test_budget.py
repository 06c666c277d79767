"""A cap on a batch's cost is kept by all workers together: what was spent never passes it, and a higher one goes on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database
from tests.acceptance.truth import assert_ledger_is_the_log
from tests.servers import SandboxProcess, Valkey, wait_for

JOBS = 400
MAX_TOKENS = 30
PRICE = {"input_token_cost": "1", "output_token_cost": "10", "currency": "USD"}
CAP = 40
"""In USD: enough for about 130 to 250 of the jobs, as their answers turn out."""


@pytest.fixture
def cli(quick_cli: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    return quick_cli


def spent(database: Database) -> float:
    """What the ledger says that the batch has cost, in USD."""
    with database.read() as connection:
        return (
            float(connection.execute(sa.text("SELECT coalesce(sum(cost_nanos), 0) FROM attempts")).scalar_one()) / 1e9
        )


@pytest.mark.timeout(180)
def test_four_workers_together_spend_no_more_than_the_cap_and_resume_goes_on(
    start_sandbox: Callable[..., SandboxProcess],
    valkey: Valkey,
    postgres_url: str,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
    start: Callable[..., Any],
) -> None:
    sandbox = start_sandbox(latency=0.05)
    key = {"id": "k", "secret": "sk-canary-budget", "pricing": PRICE}
    config = write_config(sandbox.url, providers=["openai"], keys={"openai": [key]})
    prompts = write_lines(
        [{"model": "gpt-a", "prompt": f"Question {n}?", "max_tokens": MAX_TOKENS} for n in range(JOBS)]
    )
    urls = {"TRUCKLLM_REDIS_URL": valkey.url, "TRUCKLLM_DATABASE_URL": postgres_url}
    assert cli("db", "upgrade", "-c", config, **urls).returncode == 0
    database = Database(postgres_url)

    def status() -> tuple[str, str | None]:
        with database.read() as connection:
            row = connection.execute(sa.text("SELECT status, paused_reason FROM batches")).one()
        return row.status, row.paused_reason

    for _ in range(4):
        start("worker", "-c", config, **urls)
    submitted = cli("submit", prompts, "--max-cost", str(CAP), "-c", config, **urls)
    assert submitted.returncode == 0, submitted.stderr
    batch = submitted.stdout.split()[-1]

    wait_for(lambda: status()[0] == "paused", "the cap to pause the batch", 100)
    assert "cap: 40.00 USD" in str(status()[1])
    dearest = 10 / 1000 * 1 + MAX_TOKENS / 1000 * 10
    assert CAP - 4 * dearest <= spent(database) <= CAP, "close to the cap, and never over it"
    calls = len(sandbox.log())
    assert calls < JOBS
    refused = cli("resume", batch, "--max-cost", "nothing", "-c", config, **urls)
    assert refused.returncode == 2
    assert "--max-cost" in refused.stderr

    resumed = cli("resume", batch, "--max-cost", "1000", "-c", config, **urls)
    assert resumed.returncode == 0, resumed.stderr
    wait_for(lambda: status()[0] == "completed", "the batch to be completed", 60)
    assert len(assert_ledger_is_the_log(database, sandbox, config=config)) == JOBS
    with database.read() as connection:
        budget = connection.execute(sa.text("SELECT spent_nanos, reserved_nanos FROM budgets")).one()
        assert connection.execute(sa.text("SELECT count(*) FROM budget_reservations")).scalar_one() == 0
    assert budget.reserved_nanos == 0
    assert budget.spent_nanos == round(spent(database) * 1e9)
    database.close()


def test_the_cap_holds_for_bodies_that_ask_for_a_dearer_tier(
    start_sandbox: Callable[..., SandboxProcess],
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    sandbox = start_sandbox(latency=0.3)
    pricing = {"input_token_cost": "0", "output_token_cost": "10", "tier_factors": {"priority": "4"}}
    config = write_config(
        sandbox.url, providers=["openai"], keys={"openai": [{"id": "k", "secret": "s", "pricing": pricing}]}
    )
    body = {"model": "gpt-a", "service_tier": "priority", "max_tokens": MAX_TOKENS}
    lines = [
        {
            "custom_id": f"q{n}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {**body, "messages": [{"role": "user", "content": f"Question {n}?"}]},
        }
        for n in range(60)
    ]
    # a call may cost 30 x 10 / 1000 = 0.30 at the usual tier, and 1.20 at this one; all 60 would leave at once
    done = cli("run", write_lines(lines), "--max-cost", "6", "-c", config)
    assert done.returncode == 3, done.stderr
    assert "`truckllm resume 1 --max-cost AMOUNT` lets it go on" in done.stdout
    report = json.loads(cli("costs", "--json", "-c", config).stdout)
    spent = Decimal(report["totals"][0]["cost"])
    assert Decimal("6") - Decimal("1.2") < spent <= Decimal("6")


def test_a_batch_whose_calls_have_no_price_is_paused_before_the_first_of_them(
    sandbox: SandboxProcess,
    write_config: Callable[..., Path],
    write_lines: Callable[..., Path],
    cli: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    config = write_config(sandbox.url, providers=["openai"], keys={"openai": [{"id": "k", "secret": "s"}]})
    prompts = write_lines([{"model": "gpt-a", "prompt": f"Question {n}?"} for n in range(5)])
    done = cli("run", prompts, "--max-cost", "5", "-c", config)
    assert done.returncode == 3, done.stderr
    assert "no price in USD" in done.stderr
    assert "a price in the configuration, then `truckllm resume 1`, lets it go on" in done.stdout
    assert sandbox.log() == []
