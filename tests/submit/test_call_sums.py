"""Calls are counted once each, on both databases: settled ones from memory, late ones when they end."""

from __future__ import annotations

from models.database import Database
from models.states import Outcome
from models.store import traffic
from submit.api.metrics import CallSums
from tests.submit.api.traffic import calls


def test_a_call_under_way_is_counted_when_it_ends(database: Database) -> None:
    sums = CallSums(database, longest=600.0)
    calls(database, [50.0], end=False)
    calls(database, [45.0, 44.0])
    assert sum(one.calls for one in sums.read().values()) == 2
    with database.write() as connection:
        open_call = connection.exec_driver_sql("SELECT id FROM attempts WHERE finished_at IS NULL").scalar_one()
        connection.exec_driver_sql(f"UPDATE attempts SET finished_at = started_at + 20 WHERE id = {open_call}")
    assert sum(one.calls for one in sums.read().values()) == 3
    assert sum(one.calls for one in sums.read().values()) == 3


def test_a_call_that_a_crash_left_open_is_counted_as_unknown_in_the_end(database: Database) -> None:
    calls(database, [700.0], end=False)
    found = CallSums(database, longest=600.0).read()
    assert {label.outcome: one.calls for label, one in found.items()} == {Outcome.UNKNOWN: 1}


def test_sums_add_up_in_any_order(database: Database) -> None:
    calls(database, [9000.0, 300.0, 20.0])
    with database.read() as connection:
        now = database.now(connection)
        whole = dict(traffic.ended(connection, 0.0, now + 1, now))
        parts: dict[traffic.Label, traffic.Sums] = {}
        for since, before in ((0.0, now - 500), (now - 500, now - 100), (now - 100, now + 1)):
            for label, one in traffic.ended(connection, since, before, now):
                parts[label] = parts[label] + one if label in parts else one
    assert parts == whole
