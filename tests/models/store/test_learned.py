"""Learned limits in SQL: what is kept, what a reset covers, and what time removes."""

from __future__ import annotations

import pytest

from models.database import Database
from models.store import learned
from models.store.learned import KEPT_SECONDS, RESET_SECONDS, Learned

NOW = 1_700_000_000.0
ONES = [
    Learned("openai/a", "large", 300.0, None, 8.0, configured="f"),
    Learned("openai/a", "small", None, 20_000.0, None, configured="f"),
    Learned("pool:team", "large", 30.5, None, None, configured="g"),
]


@pytest.fixture
def kept(database: Database) -> Database:
    with database.write() as connection:
        learned.keep(connection, ONES, NOW)
    return database


def there(database: Database, now: float = NOW) -> list[tuple[str, str]]:
    with database.read() as connection:
        return [(one.pool, one.model) for one in learned.everything(connection, now)]


def test_what_is_kept_is_read_and_replaced_as_it_was(kept: Database) -> None:
    with kept.write() as connection:
        learned.keep(connection, [Learned("openai/a", "large", 280.0, 9000.0, None, configured="h")], NOW + 60)
        first, second, third = learned.everything(connection, NOW + 60)
    assert first == Learned("openai/a", "large", 280.0, 9000.0, None, None, "h", NOW + 60)
    assert (second.limits, second.updated_at) == ((None, 20_000.0, None), NOW)
    assert third.limits == (30.5, None, None)


@pytest.mark.parametrize(
    ("pools", "model", "left"),
    [
        (["openai/a"], "", [("pool:team", "large")]),
        (["openai/a"], "large", [("openai/a", "small"), ("pool:team", "large")]),
        ([""], "large", [("openai/a", "small")]),
        ([""], "", []),
        (["openai/a", "pool:team", "openai/a"], "small", [("openai/a", "large"), ("pool:team", "large")]),
        (["nobody"], "", [("openai/a", "large"), ("openai/a", "small"), ("pool:team", "large")]),
    ],
)
def test_a_reset_forgets_what_it_names_and_lets_nothing_of_it_back_for_a_minute(
    kept: Database, pools: list[str], model: str, left: list[tuple[str, str]]
) -> None:
    with kept.write() as connection:
        found = learned.reset(connection, pools, model, NOW + 1)
    everything = [(one.pool, one.model) for one in ONES]
    assert [(one.pool, one.model) for one in found] == [one for one in everything if one not in left]
    assert there(kept) == left
    with kept.write() as connection:  # a worker that has read Redis just before
        learned.keep(connection, ONES, NOW + 2)
    assert there(kept) == left
    with kept.write() as connection:
        learned.sweep(connection, NOW + 30)
        assert len(learned.resets(connection)) == len(set(pools))
        learned.sweep(connection, NOW + 2 + RESET_SECONDS)
        assert learned.resets(connection) == []
        learned.keep(connection, ONES, NOW + 3 + RESET_SECONDS)
    assert there(kept) == everything


def test_a_second_reset_of_the_same_stands_for_as_long_as_the_first(kept: Database) -> None:
    with kept.write() as connection:
        learned.reset(connection, ["openai/a"], "large", NOW)
        assert learned.reset(connection, ["openai/a"], "large", NOW + 50) == []
        learned.reset(connection, ["openai/a"], "", NOW + 55)
        learned.sweep(connection, NOW + 70)
        assert [(one.model, one.at) for one in learned.resets(connection)] == [("", NOW + 55)]


def test_what_a_late_worker_stored_in_spite_of_a_reset_goes_with_it(kept: Database) -> None:
    with kept.write() as connection:
        learned.reset(connection, ["nobody"], "", NOW)
        row = {"pool": "nobody", "model": "m", "configured": "f", "updated_at": NOW + 1, "requests_per_min": 3.0}
        connection.execute(learned.learned_limits.insert(), row)
        learned.sweep(connection, NOW + 1 + RESET_SECONDS)
    assert there(kept) == [(one.pool, one.model) for one in ONES]


def test_after_a_week_without_use_it_is_gone(kept: Database) -> None:
    with kept.write() as connection:
        learned.keep(connection, ONES[:1], NOW + KEPT_SECONDS / 2)
    later = NOW + KEPT_SECONDS + 1
    assert there(kept, later) == [("openai/a", "large")]
    with kept.write() as connection:
        learned.sweep(connection, later)
    assert there(kept, NOW) == [("openai/a", "large")]


def test_how_tokens_are_counted_outlives_new_limits(kept: Database) -> None:
    with kept.write() as connection:
        connection.execute(learned.learned_limits.update().values(counting='{"factor": 1.3}'))
        learned.keep(connection, [Learned("openai/a", "large", 200.0, configured="f")], NOW + 60)
        first, *_ = learned.everything(connection, NOW + 60)
    assert (first.requests_per_min, first.counting) == (200.0, '{"factor": 1.3}')
