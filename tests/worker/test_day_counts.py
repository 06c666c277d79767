"""What the ledger has of a day, by the limits' buckets: of every call, as its provider counts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.config_file import load_config_text
from models.days import day_at
from models.request import Usage
from models.states import Outcome
from models.tables import attempts
from tests.worker.bench import Bench
from tests.worker.scripted import Scripted, at_once
from worker.day_counts import DayCounts
from worker.limits.shapes import Charge
from worker.pools import day_bucket_id

DATABASES = ["sqlite"]
ZONE = "America/Los_Angeles"
DAY = day_at(ZONE, 1_796_000_000.0)
CONFIG = """
providers:
  - {id: openai, keys: [{id: k, secret: s}]}
  - {id: gemini, keys: [{id: k, secret: s}]}
  - {id: claude, keys: [{id: k, secret: s}]}
"""


@pytest.fixture
def worker(start_worker: Callable[..., Bench]) -> Bench:
    return start_worker(load_config_text(CONFIG, secrets=True, environ={}))


def write(worker: Bench, *calls: dict[str, Any]) -> None:
    def insert(connection: Connection) -> None:
        for number, call in enumerate(calls):
            row = {"key_id": "k", "requested_model": "m", "outcome": Outcome.SUCCEEDED, "booked_tokens": 100, **call}
            connection.execute(sa.insert(attempts).values(id=number, job_id=1, batch_id=1, epoch=number, **row))

    worker.run(worker.recorder.call(insert))


def counted(worker: Bench, *names: str, pool: str | None = None) -> list[int]:
    providers = {name: runner.engine.provider for name, runner in worker.runners.items()}
    counts = DayCounts(worker.recorder, providers, lambda name: {pool or name})
    found = worker.run(counts.of([(name, DAY.start) for name in names]))
    return [found[name, DAY.start] for name in names]


@pytest.mark.parametrize(
    ("provider", "outcome", "usage", "taken"),
    [
        ("claude", Outcome.UNKNOWN, {}, 100),
        ("claude", Outcome.RATE_LIMITED, {}, 100),
        ("claude", Outcome.SUCCEEDED, {"input_tokens": 500, "cached_tokens": 450, "output_tokens": 7}, 57),
        ("gemini", Outcome.SUCCEEDED, {"input_tokens": 500, "output_tokens": 7}, 500),
        ("openai", Outcome.SUCCEEDED, {"input_tokens": 500, "output_tokens": 7}, 100),
        ("of another", Outcome.SUCCEEDED, {"input_tokens": 50, "output_tokens": 70}, 120),
        ("of another", Outcome.SUCCEEDED, {"input_tokens": 5, "output_tokens": 7}, 100),
    ],
)
def test_calls_count_as_their_provider_counts_them(
    worker: Bench, provider: str, outcome: Outcome, usage: dict[str, int], taken: int
) -> None:
    call = {"provider": provider, "outcome": outcome, "started_at": DAY.start + 3600.0, **usage}
    write(worker, call, call)
    name = f"{provider}/k"
    assert counted(
        worker,
        day_bucket_id(name, "", "tokens", ZONE),
        day_bucket_id(name, "", "requests", ZONE),
        day_bucket_id(name, "m", "tokens", ZONE),
        day_bucket_id(name, "other", "requests", ZONE),
    ) == [2 * taken, 2, 2 * taken, 0]


def test_a_call_near_midnight_counts_and_others_outside_of_the_day_do_not(worker: Bench) -> None:
    moments = (DAY.start - 3.0, DAY.start - 1.0, DAY.start + 1.0, DAY.end + 1.0, DAY.end + 3.0)
    write(worker, *({"provider": "openai", "started_at": at} for at in moments))
    assert counted(worker, day_bucket_id("openai/k", "", "requests", ZONE)) == [3]


def test_keys_of_a_pool_are_one_quota(worker: Bench) -> None:
    write(worker, *({"provider": name, "started_at": DAY.start + 9.0} for name in ("openai", "claude")))
    assert counted(worker, day_bucket_id("pool:x", "", "requests", ZONE), pool="pool:x") == [2]


class Squares(Scripted):
    """It settles calls in a way that sums of calls don't keep."""

    def settled(self, booked: Charge, usage: Usage) -> Charge:
        return Charge(tokens=usage.input_tokens**2)


def test_a_plugin_s_own_way_to_settle_is_not_asked_about_sums(worker: Bench) -> None:
    engine = worker.runners["openai"].engine
    engine.provider = Squares(engine.provider.config, engine.provider.sender, at_once)
    call = {"provider": "openai", "started_at": DAY.start + 9.0, "input_tokens": 300, "output_tokens": 1}
    write(worker, call, {**call, "input_tokens": 3})
    assert counted(worker, day_bucket_id("openai/k", "", "tokens", ZONE)) == [301 + 100]
