"""Every row of the providers' error tables and every shape of usage, from golden/*.yaml.

The arithmetic of each usage stands beside it there, and for some that of the price (units for 1,000 tokens or uses).
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from models.config import Pricing, ProviderConfig
from models.money import decimal_amount
from models.prices import price
from models.request import Request, Usage
from worker.providers.contract import KEY, MODEL, SIMPLE_INPUT, NoSender
from worker.providers.base import Provider, Reply
from worker.providers.claude import Claude
from worker.providers.gemini import Gemini
from worker.providers.openai import OpenAI

DATE = "Sun, 22 Nov 2026 20:00:00 GMT"
CLASSES: dict[str, type[Provider]] = {"openai": OpenAI, "gemini": Gemini, "claude": Claude}
GOLDEN = Path(__file__).parent / "golden"
"""One file a dialect, and one more for each other endpoint of it: DIALECT-OPERATION.yaml."""
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
    source = {"input": row["input"]} if "input" in row else SIMPLE_INPUT
    return CLASSES[dialect](config, NoSender()).read(Request(MODEL, source, KEY, operation=operation), reply)


@pytest.mark.parametrize(("dialect", "operation", "row"), rows("errors"))
def test_an_error_is_what_its_row_says(dialect: str, operation: str, row: dict[str, Any]) -> None:
    response = read(dialect, operation, row)
    failure = response.failure
    assert failure is not None
    assert {field: getattr(failure, field) for field in FIELDS} == {field: row.get(field) for field in FIELDS}
    assert row.get("message", "") in failure.message
    assert failure.http_status == response.http_code == row["status"]
    assert response.text is None


def usage_of(row: dict[str, Any]) -> Usage | None:
    if row["usage"] is None:
        return None
    fees = tuple((name, uses) for name, uses in row["usage"].get("fees", {}).items())
    kinds = tuple(row["usage"].get("modalities", {}).items())
    return Usage(**{**row["usage"], "fees": fees, "modalities": kinds})


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
        pricing = Pricing.model_validate(row["pricing"])
        cost = price(response.usage, pricing)
        assert (None if cost is None else decimal_amount(cost.nanos)) == (row["cost"] and Decimal(row["cost"]))
    for field in ("text", "finish_reason", "served_model", "request_id"):
        assert getattr(response, field) == row.get(field), field
