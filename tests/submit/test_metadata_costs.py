"""Costs by the lines' own metadata add up to the same money as without, on both databases."""

from __future__ import annotations

import json

import pytest

from models.database import Database
from models.errors import UsageError
from models.store import ledger
from submit import metadata_costs
from submit.metadata_costs import spent_by
from submit.removal import remove
from submit.reports import dimensions
from tests.making import make_batch, new_job
from tests.worker_by_hand import WorkerByHand

CUSTOMERS = ["acme", "bolt", None, "acme", {"id": 7}, 3]


def answered(database: Database) -> int:
    bodies = [
        json.dumps({"prompt": "x", **({} if who is None else {"metadata": {"customer": who, "deep": {"er": "y"}}})})
        for who in CUSTOMERS
    ]
    batch = make_batch(database, [new_job(n, body=body.encode()) for n, body in enumerate(bodies)])
    worker = WorkerByHand(database)
    for number, job in enumerate(worker.claim(64)):
        if number == 1:
            worker.fail(job, cost_nanos=50, currency="USD", usage=None)
        else:
            worker.succeed(job, cost_nanos=100 * (number + 1))
    return batch


@pytest.mark.parametrize("page", [1, 4, 500])
def test_each_value_has_its_own_sums_and_all_together_are_the_ledgers(
    database: Database, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(metadata_costs, "_PAGE", page)
    batch = answered(database)
    rows, _ = spent_by(database, ["metadata.customer", "provider"], batch_id=batch)
    assert {row.group: (row.calls, row.cost_nanos) for row in rows} == {
        ("", "openai"): (1, 300),
        ("3", "openai"): (1, 600),
        ("acme", "openai"): (2, 500),
        ("bolt", "openai"): (1, 50),
        ('{"id":7}', "openai"): (1, 500),
    }
    with database.read() as connection:
        (whole,) = ledger.spent(connection, [], batch_id=batch)
    for name in ("calls", "cost_nanos", "failed_nanos", "input_tokens", "output_tokens"):
        assert sum(getattr(row, name) for row in rows) == getattr(whole, name), name


def test_order_and_depth_are_as_asked_for(database: Database) -> None:
    answered(database)
    groups = {row.group for row in spent_by(database, ["provider", "metadata.deep.er"])[0]}
    assert groups == {("openai", "y"), ("openai", "")}


def test_what_was_deleted_is_counted_as_such_and_other_batches_beside_it(database: Database) -> None:
    first, second = answered(database), answered(database)
    remove(database, first)
    rows = {row.group: row.calls for row in spent_by(database, ["metadata.customer"])[0]}
    assert rows[(metadata_costs.DELETED,)] == 6
    assert rows[("acme",)] == 2
    assert spent_by(database, ["metadata.customer"], batch_id=second + 99) == ([], [])


def test_a_field_that_no_line_has_is_reported_with_those_that_they_have(database: Database) -> None:
    answered(database)
    rows, notes = spent_by(database, ["metadata.customr", "metadata.deep.er"])
    assert {row.group[0] for row in rows} == {""}
    assert len(notes) == 1
    assert notes[0].startswith("no line has metadata.customr; the lines have ")
    assert "customer" in notes[0]
    assert spent_by(database, ["metadata.deep.nothing"])[1][0].startswith("no line has metadata.deep.nothing")


def test_a_dimension_needs_a_name() -> None:
    assert dimensions("provider, metadata.a.b") == ("provider", "metadata.a.b")
    for wrong in ("metadata", "metadata.", "metadata..a", "provider.x", ""):
        with pytest.raises(UsageError, match=r"metadata\.FIELD"):
            dimensions(wrong)
