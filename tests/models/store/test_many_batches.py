"""Claims stay fair and cheap with hundreds of unfinished batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database
from models.store import claims
from models.store import jobs as job_store
from models.store.claims import BATCHES_A_CLAIM
from models.tables import jobs
from tests.making import NOW, claim, make_batch, new_job


@pytest.fixture(autouse=True)
def _same_dice_in_every_run() -> None:
    random.seed(4)


def asked_for(database: Database, work: Any) -> int:
    """How many statements `work` runs."""
    seen = [0]

    def see(*_: Any) -> None:
        seen[0] += 1

    sa.event.listen(database.engine, "before_cursor_execute", see)
    try:
        work()
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", see)
    return seen[0]


def test_a_claim_finds_the_one_batch_that_has_something_for_it_among_many(database: Database) -> None:
    for _ in range(3 * BATCHES_A_CLAIM):
        make_batch(database, 1, lane="claude")
    batch = make_batch(database, 100)
    for wanted in (64, 36, 0):
        taken = claim(database, most=64)
        assert len(taken) == wanted
        assert {job.batch_id for job in taken} <= {batch}


def test_batches_with_nothing_that_may_start_here_stand_before_none_that_has(database: Database) -> None:
    """Jobs that this provider has failed, or whose model can't start now, are seen only where they are."""
    for n in range(2 * BATCHES_A_CLAIM):
        make_batch(database, [new_job(0, lane="either", model="slow" if n % 2 else "fast")])
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.model == "fast").values(excluded=",openai,"))
    batch = make_batch(database, 10, lane="either")
    with database.write() as connection:
        taken = claims.claim(
            connection,
            provider="openai",
            lanes=["openai", "either"],
            worker_id=1,
            most=64,
            most_bytes=1 << 20,
            now=NOW,
            skip=[("either", "slow")],
        )
    assert [job.batch_id for job in taken] == [batch] * 10


def test_a_claim_costs_the_same_however_many_batches_wait_for_others(database: Database) -> None:
    def waiting() -> None:
        with database.read() as connection:
            job_store.waiting_lanes(connection, ["openai"])

    def costs() -> tuple[int, int, int]:
        make_batch(database, 64)
        full = asked_for(database, lambda: claim(database, most=64))
        return full, asked_for(database, lambda: claim(database, most=64)), asked_for(database, waiting)

    alone = costs()
    for _ in range(60):
        make_batch(database, 1, lane="claude")
    assert costs() == alone


def test_each_of_many_batches_gets_its_turn(database: Database) -> None:
    expected = {make_batch(database, 60) for _ in range(3 * BATCHES_A_CLAIM)}
    claims = [claim(database, most=64) for _ in range(25)]
    assert all(len(taken) == 64 for taken in claims)
    assert {job.batch_id for taken in claims for job in taken} == expected
