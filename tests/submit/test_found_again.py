"""The same input again: it finds its batch, unfinished or completed, and nothing is paid twice by accident."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from models.database import Database
from models.errors import ConflictError
from models.states import BatchStatus
from models.store import batches
from models.store import jobs as job_store
from models.store.budgets import OF_ITS_CAP
from models.tables import batches as batch_table
from submit.producer import Submitted
from tests.submit.conftest import cap, prompts, status
from tests.worker_by_hand import WorkerByHand


def number_of_batches(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(batch_table)).scalar_one())


def test_the_same_input_finds_its_unfinished_batch(put: Callable[..., Submitted], database: Database) -> None:
    first = put(prompts(3))
    again = put(prompts(3), name="another name", priority=5, max_cost="2")
    assert (again.batch_id, again.found, again.total) == (first.batch_id, "resumed", 3)
    assert cap(database, first.batch_id) == 2 * 10**9
    assert number_of_batches(database) == 1


@pytest.mark.parametrize("options", [{"model": "gpt-4o-mini"}, {"limit": 2}])
def test_other_options_conflict_while_the_batch_is_unfinished(
    put: Callable[..., Submitted], options: dict[str, Any]
) -> None:
    first = put(prompts(3))
    with pytest.raises(ConflictError) as raised:
        put(prompts(3), **options)
    message = str(raised.value)
    assert raised.value.exit_code == 2
    assert f"batch {first.batch_id} (queued)" in message
    assert f"truckllm cancel {first.batch_id}" in message
    assert "--new" in message
    assert next(iter(options)) in message


def test_new_makes_another_batch_each_time_and_the_latest_is_found(
    put: Callable[..., Submitted], database: Database
) -> None:
    ids = [put(prompts(3)).batch_id, put(prompts(3), new=True).batch_id, put(prompts(3), new=True).batch_id]
    assert len(set(ids)) == 3
    assert put(prompts(3)).batch_id == ids[-1]
    assert put(prompts(3), model="gpt-4o-mini", new=True).batch_id not in ids


def test_a_completed_batch_is_found_and_paid_again_only_on_demand_with_a_warning_that_names_it(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2))
    worker = WorkerByHand(database)
    one, two = worker.claim(2)
    worker.succeed(one, cost_nanos=1_500_000)
    worker.fail(two)
    assert status(database, first.batch_id) == BatchStatus.COMPLETED
    assert put(prompts(2)) == Submitted(first.batch_id, 2, "completed", ())
    again = put(prompts(2), priority=3, max_cost="2", name="urgent")
    assert again.warnings == ("batch 1 is completed: name, priority and cap of now change nothing",)
    assert (cap(database, first.batch_id), number_of_batches(database)) == (None, 1)
    second = put(prompts(2), new=True)
    assert second.batch_id != first.batch_id
    assert second.found == "new"
    (warning,) = second.warnings
    for part in (
        f"batch {first.batch_id} ",
        "1 succeeded, 1 failed, 0.0015 USD",
        "pays",
        f"truckllm rerun {first.batch_id}",
    ):
        assert part in warning
    assert put(prompts(2)).batch_id == second.batch_id


def test_what_is_completed_is_found_beside_an_unfinished_batch_of_other_options_and_a_cancelled_one(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2))
    worker = WorkerByHand(database)
    for job in worker.claim(2):
        worker.succeed(job)
    second = put(prompts(2), new=True)
    with database.write() as connection:
        batches.cancel(connection, second.batch_id)
        job_store.cancel_queued(connection, second.batch_id, 1.0)
    other = put(prompts(2), limit=1)
    assert other.batch_id not in (first.batch_id, second.batch_id)
    assert put(prompts(2)) == Submitted(first.batch_id, 2, "completed", ())


def test_a_batch_that_was_cancelled_before_any_call_is_no_reason_to_warn(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2))
    with database.write() as connection:
        batches.cancel(connection, first.batch_id)
        job_store.cancel_queued(connection, first.batch_id, 1.0)
    second = put(prompts(2))
    assert (second.found, second.warnings) == ("new", ())


def test_one_that_is_paused_at_its_cap_is_told_to_need_another_unless_that_was_just_given(
    put: Callable[..., Submitted], database: Database
) -> None:
    first = put(prompts(2)).batch_id
    with database.write() as connection:
        reason = f"the next call may cost more than the 0.00 USD that are left {OF_ITS_CAP} (cap: 1.00 USD)"
        batches.pause(connection, first, reason)
    assert put(prompts(2)).warnings == (
        f"batch {first} is paused: `truckllm resume {first} --max-cost AMOUNT` lets it go on",
    )
    exact, paused = put(prompts(2), max_cost="2").warnings
    assert "2 lines have no max_tokens" in exact
    assert paused == f"batch {first} is paused: `truckllm resume {first}` lets it go on"
