"""A load that is given up leaves nothing behind, and nothing else is ever deleted."""

from __future__ import annotations

import sqlalchemy as sa

from models.database import Database
from models.store import batches, loads, removals
from models.store.batches import NewJob
from models.tables import batch_counts, job_inputs, jobs
from models.tables import batches as batch_table


def loading(database: Database, number: int = 5) -> int:
    with database.write() as connection:
        batch = batches.create(
            connection,
            name="b",
            input_name="b",
            sha256="s",
            options_hash="o",
            defaults="{}",
            priority=0,
            again=0,
            loader="me",
            now=1.0,
        )
        new = [NewJob(n, f"line-{n}", "openai", "m", b"{}", "simple", "chat") for n in range(number)]
        assert batches.add_jobs(connection, batch, "me", new, 1.0)
    return batch


def discard(database: Database, batch: int, loader: str = "me") -> list[bool]:
    said: list[bool] = []
    while not said or not said[-1]:
        with database.write() as connection:
            said.append(loads.discard(connection, batch, loader, most=2))
    return said


def rows(database: Database) -> list[int]:
    with database.read() as connection:
        return [
            connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for table in (batch_table, jobs, job_inputs, batch_counts)
        ]


def test_a_cancelled_load_is_deleted_in_chunks(database: Database) -> None:
    batch = loading(database)
    with database.write() as connection:
        assert batches.cancel(connection, batch)
    assert discard(database, batch) == [False, False, False, True]
    assert rows(database) == [0, 0, 0, 0]


def test_a_load_that_is_not_cancelled_or_not_ours_is_left_alone(database: Database) -> None:
    batch = loading(database)
    assert discard(database, batch) == [True]
    with database.write() as connection:
        batches.cancel(connection, batch)
    assert discard(database, batch, "somebody else") == [True]
    assert rows(database)[:3] == [1, 5, 5]


def test_a_published_batch_is_left_alone_even_when_it_is_cancelled(database: Database) -> None:
    batch = loading(database)
    with database.write() as connection:
        assert batches.publish(connection, batch, "me")
        assert batches.cancel(connection, batch)
    assert discard(database, batch) == [True]
    assert rows(database)[:3] == [1, 5, 5]


def test_a_load_that_nobody_went_on_with_for_a_week_is_given_up_and_removed_in_chunks(database: Database) -> None:
    batch = loading(database)
    with database.write() as connection:
        assert loads.give_up(connection, 1.0 + loads.ABANDONED_SECONDS) == []
        assert loads.abandoned(connection, 2.0) == [batch]
        assert loads.give_up(connection, 2.0 + loads.ABANDONED_SECONDS) == [batch]
        assert not batches.publish(connection, batch, "me")
        assert not batches.add_jobs(connection, batch, "me", [], 9.0)
    chunks = []
    while not chunks or chunks[-1]:
        with database.write() as connection:
            chunks.append(removals.remove(connection, batch, most=2))
    assert chunks == [2, 2, 1, 0]
    assert rows(database) == [0, 0, 0, 0]


def test_a_load_that_was_let_go_is_taken_over_at_once_and_keeps_the_time_of_its_last_writing(
    database: Database,
) -> None:
    batch = loading(database)
    with database.write() as connection:
        assert batches.add_jobs(connection, batch, "me", [], 500.0)
        assert batches.take_over(connection, batch, "another", 501.0) is None
        batches.release(connection, batch, "me")
        assert loads.abandoned(connection, 500.0) == []
        assert loads.abandoned(connection, 501.0) == [batch]
        assert batches.take_over(connection, batch, "another", 502.0) == 5
        assert not batches.add_jobs(connection, batch, "me", [], 503.0)
        assert loads.loader(connection, batch) == "another"


def test_a_load_is_deleted_by_hand_once_its_loader_is_silent_or_has_let_go(database: Database) -> None:
    for silent in (True, False):
        batch = loading(database)
        with database.write() as connection:
            assert not removals.begin(connection, batch, 2.0)
            if not silent:
                batches.release(connection, batch, "me")
            assert removals.begin(connection, batch, 62.0 if silent else 2.0)
            assert removals.ended_before(connection, 0.0) == [batch]
            assert removals.remove(connection, batch) == 5
            assert removals.remove(connection, batch) == 0
    assert rows(database) == [0, 0, 0, 0]
