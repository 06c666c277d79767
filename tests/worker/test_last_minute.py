"""The last minute of the ledger by buckets: of every call, of whatever provider, however it ended, by all that is known of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.database import Database
from models.request import Usage
from models.states import Outcome
from models.tables import attempts
from tests.worker.bench import Bench, bench
from tests.worker.scripted import Scripted, at_once
from worker.last_minute import ANNOUNCED, LastMinute, Started, by_bucket
from worker.limits.shapes import Charge

DATABASES = ["sqlite"]


def pools(name: str) -> set[str]:
    return {"openai/a": {"openai/a"}, "mine/b": {"pool:acme"}, "moved/c": {"moved/c", "pool:acme"}}.get(name, set())


def call(name: str, model: str = "m", age: float = 5.0, tokens: int = 40) -> Started:
    return Started(name, model, age, Charge(1, tokens, tokens - 10, 10))


def test_calls_count_in_every_bucket_that_is_asked_for_whatever_ones_own_limits_are() -> None:
    wanted = ["openai/a|requests", "openai/a|input_tokens", "openai/a|m|tokens", "openai/a|other|tokens"]
    assert by_bucket(wanted, [call("openai/a"), call("openai/a", age=9.0), call("gone/x")], pools) == {
        "openai/a|requests": [(5.0, 1), (9.0, 1)],
        "openai/a|input_tokens": [(5.0, 30), (9.0, 30)],
        "openai/a|m|tokens": [(5.0, 40), (9.0, 40)],
    }


def test_a_shared_pool_counts_the_calls_of_all_its_keys_also_of_one_that_moved() -> None:
    calls = [call("mine/b"), call("moved/c"), call("openai/a")]
    assert by_bucket(["pool:acme|requests"], calls, pools) == {"pool:acme|requests": [(5.0, 1), (5.0, 1)]}
    assert by_bucket(["moved/c|requests"], calls, pools) == {"moved/c|requests": [(5.0, 1)]}


@pytest.fixture
def worker(write_config: Callable[..., Path], database: Database, valkey_url: str) -> Iterator[Bench]:
    with bench(write_config("http://127.0.0.1:1"), database, valkey_url) as made:
        yield made


@pytest.mark.parametrize(
    ("provider", "outcome", "usage", "taken"),
    [
        ("claude", Outcome.UNKNOWN, {}, 100),
        ("claude", Outcome.RATE_LIMITED, {}, 100),
        ("claude", Outcome.SUCCEEDED, {"input_tokens": 500, "cached_tokens": 450, "output_tokens": 7}, 57),
        ("claude", Outcome.FENCED, {"input_tokens": 500, "output_tokens": 7}, 507),
        ("gemini", Outcome.SUCCEEDED, {"input_tokens": 500, "output_tokens": 7}, 500),
        ("openai", Outcome.SUCCEEDED, {"input_tokens": 500, "output_tokens": 7}, 100),
        ("of another", Outcome.SUCCEEDED, {"input_tokens": 50, "output_tokens": 70}, 120),
        ("of another", Outcome.SUCCEEDED, {"input_tokens": 5, "output_tokens": 7}, 100),
    ],
)
def test_a_call_counts_as_its_provider_counts_it_and_as_booked_until_that_is_known(
    worker: Bench, provider: str, outcome: Outcome, usage: dict[str, int], taken: int
) -> None:
    def write(connection: Connection) -> None:
        now = worker.recorder.now()
        for number, age in enumerate((10.0, 80.0)):
            connection.execute(
                sa.insert(attempts).values(
                    id=number, job_id=1, batch_id=1, epoch=number, provider=provider, key_id="k", requested_model="m",
                    outcome=outcome, booked_tokens=100, started_at=now - age, **usage,
                )
            )  # fmt: skip

    worker.run(worker.recorder.call(write))
    providers = {name: runner.engine.provider for name, runner in worker.runners.items()}
    told = worker.run(LastMinute(worker.recorder, providers, lambda name: {name}).of([f"{provider}/k|tokens"]))
    ((age, amount),) = told[f"{provider}/k|tokens"]
    assert amount == taken
    assert 10 - ANNOUNCED <= age < 10 + 40


class Unsound(Scripted):
    """It settles calls as what it is told to."""

    tells: float

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        return Charge(1, self.tells, self.tells, self.tells)  # type: ignore[arg-type]


@pytest.mark.parametrize(("tells", "taken"), [(math.nan, 120), (math.inf, 120), (-5.0, None), (7.5, 7)])
def test_a_plugin_that_settles_wrongly_keeps_no_redis_from_beginning(
    worker: Bench, tells: float, taken: int | None
) -> None:
    def write(connection: Connection) -> None:
        connection.execute(
            sa.insert(attempts).values(
                id=1, job_id=1, batch_id=1, epoch=1, provider="openai", key_id="k", requested_model="m",
                outcome=Outcome.SUCCEEDED, booked_tokens=100, started_at=worker.recorder.now() - 10,
                input_tokens=50, output_tokens=70,
            )
        )  # fmt: skip

    worker.run(worker.recorder.call(write))
    provider = worker.runners["openai"].engine.provider
    unsound = Unsound(provider.config, provider.sender, at_once)
    unsound.tells = tells
    told = worker.run(LastMinute(worker.recorder, {"openai": unsound}, lambda name: {name}).of(["openai/k|tokens"]))
    assert [amount for _, amount in told.get("openai/k|tokens", [])] == ([] if taken is None else [taken])
