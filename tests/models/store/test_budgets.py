"""Caps on what a batch may cost: what counts, whenever the cap comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models import tables
from models.database import Database
from models.finalizing import reconcile
from models.prices import Cost
from models.states import JobStatus, Outcome
from models.store import attempts, budgets, endings, recounts
from models.store.attempts import Announcement
from tests.making import NOW, announce, announcement, claim, ending, finish, make_batch, make_worker


def test_a_cap_that_comes_in_the_middle_counts_what_was_spent_and_what_is_under_way(database: Database) -> None:
    batch = make_batch(database, 3)
    jobs = claim(database, make_worker(database), most=3)
    first, second, third = announce(database, *jobs)
    with database.write() as connection:
        endings.record(connection, [ending(first, cost_nanos=1000)], 0, NOW)
    with database.write() as connection:
        budgets.cap(connection, batch, 10**9, "USD")
    with database.write() as connection:
        endings.record(connection, [ending(second, cost_nanos=200)], 1, NOW)
        endings.record(connection, [ending(third, JobStatus.FAILED, cost_nanos=30)], 2, NOW)
        budget = budgets.get(connection, batch)
    assert budget is not None
    assert (budget["spent_nanos"], budget["reserved_nanos"]) == (1230, 0)
    assert finish(database, batch)


@pytest.mark.parametrize("again", ["EUR", "USD"])
def test_a_cap_that_changes_forgets_no_call_under_way(database: Database, again: str) -> None:
    batch = make_batch(database, 1)
    call = announce(database, *claim(database, make_worker(database), most=1))[0]
    with database.write() as connection:
        budgets.cap(connection, batch, 10**9, "USD")
        budgets.cap(connection, batch, 10**9, again)
    with database.write() as connection:
        endings.record(connection, [ending(call, cost_nanos=200, currency="USD")], 0, NOW)
        budget = budgets.get(connection, batch)
    assert budget is not None
    assert budget["spent_nanos"] == (200 if again == "USD" else 0)
    assert finish(database, batch)


def test_a_call_that_nobody_knows_the_end_of_leaves_the_books_right(database: Database) -> None:
    batch = make_batch(database, 1)
    call = announce(database, *claim(database, make_worker(database), most=1))[0]
    with database.write() as connection:
        budgets.cap(connection, batch, 10**9, "USD")
    with database.write() as connection:
        endings.record(connection, [ending(call, JobStatus.FAILED, outcome=Outcome.UNKNOWN, usage=None)], 0, NOW)
    books = reconcile(database, batch)
    assert books is None or not books.differences


def test_a_recount_puts_a_cap_right(database: Database) -> None:
    batch = make_batch(database, 1)
    call = announce(database, *claim(database, make_worker(database), most=1))[0]
    with database.write() as connection:
        budgets.cap(connection, batch, 10**9, "USD")
        endings.record(connection, [ending(call, cost_nanos=200)], 0, NOW)
        connection.execute(tables.budgets.update().values(spent_nanos=7))
    broken = reconcile(database, batch)
    assert broken is not None
    assert [difference.check for difference in broken.differences] == ["budget_spent"]
    with database.write() as connection:
        recounts.recount(connection, batch)
    assert finish(database, batch)


def test_only_calls_of_a_capped_batch_are_asked_what_they_may_cost(database: Database) -> None:
    asked: list[int] = []

    def priced(call: Announcement) -> Announcement:
        def may_cost() -> Cost:
            asked.append(call.batch_id)
            return Cost(7, "USD")

        return replace(call, may_cost=may_cost)

    _, capped = make_batch(database, 2), make_batch(database, 2)
    with database.write() as connection:
        budgets.cap(connection, capped, 10**9, "USD")
    calls = [priced(announcement(job)) for job in claim(database, make_worker(database), most=4)]
    with database.write() as connection:
        assert attempts.announce(connection, calls, NOW) == {call.attempt_id for call in calls}
        budget = budgets.get(connection, capped)
    assert asked == [capped, capped]
    assert budget is not None
    assert budget["reserved_nanos"] == 14
