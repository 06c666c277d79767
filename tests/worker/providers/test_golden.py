"""Every row of the providers' error tables and every shape of usage, from golden/*.yaml.

The arithmetic of each usage and of each cost stands there: it is computed here, exactly, and compared with what the ledger holds.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from models.config import Pricing, ProviderConfig
from models.database import Database
from models.money import NANOS
from models.prices import price
from models.request import Request, Usage
from models.states import JobStatus
from models.store import endings, ledger
from tests.making import announce, attempt_rows, claim, ending, make_batch, make_worker
from worker.providers.base import Provider, Reply
from worker.providers.claude import Claude
from worker.providers.contract import KEY, MODEL, NoSender, simple_input
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

DATE = "Sun, 22 Nov 2026 20:00:00 GMT"
CLASSES: dict[str, type[Provider]] = {"openai": OpenAI, "gemini": Gemini, "claude": Claude}
GOLDEN = Path(__file__).parent / "golden"
"""One file a dialect, and one more for each other endpoint of it: DIALECT-OPERATION.yaml."""
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
FIELDS = ("kind", "code", "retry_after", "resets_in")


def rows(section: str) -> list[Any]:
    found = []
    for path in sorted(GOLDEN.glob("*.yaml")):
        dialect, _, operation = path.stem.partition("-")
        golden = yaml.safe_load(path.read_text())
        found += [
            pytest.param(dialect, operation or "chat", row, id=f"{path.stem}: {row['name']}") for row in golden[section]
        ]
    return found


def read(dialect: str, operation: str, row: dict[str, Any]) -> Any:
    config = ProviderConfig.model_validate(
        {"id": dialect, "base_url": "https://api.example.com/v1", "keys": [{"id": "k", "secret": KEY}]}
    )
    if "text_body" in row:
        body = row["text_body"].encode()
    elif "error" in row:
        body = orjson.dumps({"type": "error", "error": row["error"]})
    else:
        body = orjson.dumps(row["body"])
    reply = Reply(row.get("status", 200), {"date": DATE, **row.get("headers", {})}, body)
    source = {"input": row["input"]} if "input" in row else simple_input()
    return CLASSES[dialect](config, NoSender()).read(Request(MODEL, source, KEY, operation=operation), reply)


@pytest.mark.parametrize(("dialect", "operation", "row"), rows("errors"))
def test_an_error_is_what_its_row_says(dialect: str, operation: str, row: dict[str, Any]) -> None:
    response = read(dialect, operation, row)
    failure = response.failure
    assert failure is not None
    assert {field: getattr(failure, field) for field in FIELDS} == {field: row.get(field) for field in FIELDS}
    assert row.get("message", "") in failure.message
    assert "scope" not in row or failure.scope == row["scope"]
    assert failure.http_status == response.http_code == row["status"]
    assert response.text is None


def usage_of(row: dict[str, Any]) -> Usage | None:
    if row["usage"] is None:
        return None
    fees = tuple((name, uses) for name, uses in row["usage"].get("fees", {}).items())
    kinds = tuple(row["usage"].get("modalities", {}).items())
    return Usage(**{**row["usage"], "fees": fees, "modalities": kinds})


def spelled_out(text: str | None) -> Fraction | None:
    """The value of an arithmetic of numbers, + - * / and brackets, exactly; None for none."""

    def value(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant), ast.dump(node)
        return Fraction(str(ast.get_source_segment(str(text), node)))

    return None if text is None else value(ast.parse(str(text), mode="eval").body)


@pytest.mark.parametrize(("dialect", "operation", "row"), rows("answers"))
def test_an_answer_is_what_its_row_says(dialect: str, operation: str, row: dict[str, Any]) -> None:
    response = read(dialect, operation, row)
    if "kind" in row:
        assert response.failure is not None
        assert (response.failure.kind, response.failure.code) == (row["kind"], row["code"])
        assert row.get("message", "") in response.failure.message
    else:
        assert response.failure is None
    assert response.usage == usage_of(row)
    if "cost" in row:
        assert response.usage is not None
        cost = price(response.usage, Pricing.model_validate(row["pricing"]))
        assert (None if cost is None else Fraction(cost.nanos, NANOS)) == spelled_out(row["cost"])
    for field in ("text", "finish_reason", "served_model", "request_id"):
        assert getattr(response, field) == row.get(field), field


def test_the_ledger_holds_every_cost_as_it_is_spelled_out(database: Database) -> None:
    """All answers with a price, stored as a worker stores them, failed ones too: each call's cost, and their sum in the report."""
    answers = [parameter.values for parameter in rows("answers") if "cost" in parameter.values[2]]
    worker, batch = make_worker(database), make_batch(database, len(answers))
    expected: dict[int, Fraction | None] = {}
    for call, (dialect, operation, row) in zip(announce(database, *claim(database, worker)), answers, strict=True):
        response = read(dialect, operation, row)
        assert response.usage is not None
        cost = price(response.usage, Pricing.model_validate(row["pricing"]))
        status = JobStatus.FAILED if response.failure else JobStatus.SUCCEEDED
        nanos, currency = (cost.nanos, cost.currency) if cost else (None, None)
        end = ending(call, status, usage=response.usage, cost_nanos=nanos, currency=currency)
        with database.write() as connection:
            endings.record(connection, [end], worker, call.attempt_id)
        expected[call.attempt_id] = spelled_out(row["cost"])
    stored = {row["id"]: row["cost_nanos"] for row in attempt_rows(database, batch)}
    assert {key: None if nanos is None else Fraction(nanos, NANOS) for key, nanos in stored.items()} == expected
    with database.read() as connection:
        found = ledger.spent(connection, ["batch"])
    assert sum(row.cost_nanos for row in found) == sum(cost for cost in expected.values() if cost) * NANOS
    assert sum(row.unpriced_calls for row in found) == list(expected.values()).count(None)
