"""The calls of a day as limits by day count them, on both databases."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from models.database import Database
from models.store import days
from models.store.days import Started
from models.tables import attempts
from tests.making import make_batch, new_job


def write(database: Database, at: float, booked: int = 10, **fields: Any) -> None:
    with database.write() as connection:
        serial = connection.execute(sa.select(sa.func.count()).select_from(attempts)).scalar_one() + 1
        row = {"provider": "p", "key_id": "k", "requested_model": "m", "outcome": "succeeded", **fields}
        connection.execute(
            sa.insert(attempts).values(
                id=serial, job_id=serial, batch_id=1, epoch=1, booked_tokens=booked, started_at=at, **row
            )
        )


def test_calls_are_summed_by_key_and_model_with_and_without_usage_apart(database: Database) -> None:
    for at in (99.9, 200.0):
        write(database, at)
    write(database, 100.0, outcome="unknown")
    write(database, 110.0, outcome="rate_limited")
    write(database, 150.0, booked=70, input_tokens=5, output_tokens=6, cached_tokens=2)
    write(database, 199.9, booked=1, input_tokens=50, output_tokens=60)
    write(database, 150.0, input_tokens=5)  # half of a usage is none
    write(database, 150.0, requested_model="other", key_id="k2")
    with database.read() as connection:
        found = {(row.key_id, row.model): row for row in days.started(connection, 100.0, 200.0)}
    assert found["k", "m"] == Started("p", "k", "m", 5, 30, 71, 55, 66, 2, 70 + 110)
    assert found["k2", "other"] == Started("p", "k2", "other", 1, 10, 0, 0, 0, 0, 0)
    assert len(found) == 2


def test_the_calls_of_a_day_are_found_by_an_index(database: Database) -> None:
    explain = "EXPLAIN QUERY PLAN" if database.sqlite else "EXPLAIN"
    with database.write() as connection:
        if not database.sqlite:
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        plan = str(
            connection.execute(
                sa.text(f"{explain} SELECT count(*) FROM attempts WHERE started_at >= 1 AND started_at < 2")
            ).all()
        )
    assert "ix_attempts_started" in plan


def test_queued_jobs_are_counted_by_lane(database: Database) -> None:
    make_batch(database, [new_job(n, lane="a" if n < 3 else "b") for n in range(5)])
    with database.read() as connection:
        assert days.queued_by_lane(connection) == {"a": 3, "b": 2}
