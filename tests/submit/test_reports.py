"""The cost report: sums a person can trust, in three formats, and loud about what is not in them."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from models.errors import UsageError
from models.store.ledger import Spent
from submit.reports import DEFAULT_BY, as_csv, as_json, as_text, dimensions, report


def spent(*group: str, currency: str = "USD", **numbers: int) -> Spent:
    fields: dict[str, Any] = dict.fromkeys(Spent.__dataclass_fields__, 0)
    fields.update(group=group, currency=currency, **numbers)
    return Spent(**fields)


USD = spent(
    "openai", "gpt-4o", calls=10, succeeded=9, input_tokens=1000, output_tokens=500, cost_nanos=1_234_500_000,
    failed_nanos=34_500_000, failed_billed_calls=1,
)  # fmt: skip
LOST = spent("openai", "gpt-4o", currency="", calls=3, unknown_calls=2, unknown_booked_tokens=800, open_calls=1)
EUR = spent("claude", "claude-x", currency="EUR", calls=1, succeeded=1, input_tokens=7, cost_nanos=5)
FREE = spent("gemini", "g", currency="", calls=4, succeeded=4, input_tokens=40, unpriced_calls=4, unpriced_tokens=44)
MUTE = spent("local", "m", currency="", calls=2, succeeded=2, untold_calls=2)
BY = ("provider", "model")


def test_calls_without_a_known_cost_join_their_group() -> None:
    found = report(BY, [LOST, USD])
    (row,) = found.rows
    assert (row.currency, row.calls, row.unknown_calls, row.cost_nanos) == ("USD", 13, 2, 1_234_500_000)


def test_with_two_currencies_they_stay_apart() -> None:
    other = spent("openai", "gpt-4o", currency="EUR", calls=1, cost_nanos=1)
    found = report(BY, [LOST, other, USD])
    assert [(row.currency, row.calls) for row in found.rows] == [("", 3), ("EUR", 1), ("USD", 10)]
    assert [(row.currency, row.cost_nanos) for row in found.totals] == [("", 0), ("EUR", 1), ("USD", 1_234_500_000)]


def test_the_notes_say_what_is_in_no_cost() -> None:
    notes = report(BY, [USD, LOST, EUR, FREE]).notes
    assert len(notes) == 4
    assert notes[0].startswith("UNPRICED: 4 calls used 44 tokens")
    assert notes[1].startswith("MAYBE BILLED: 2 calls")
    assert "800 tokens" in notes[1]
    assert notes[2] == "0.0345 USD of the cost was billed for 1 call that gave no usable answer"
    assert notes[3] == "1 call is under way"
    assert report(BY, [EUR]).notes == ()


def test_usage_that_nobody_told_is_not_called_unpriced() -> None:
    found = report(BY, [MUTE])
    (note,) = found.notes
    assert note.startswith("USAGE NOT TOLD: the provider didn't say how many tokens 2 calls used")
    assert "UNPRICED" not in as_text(found)
    assert as_text(found).splitlines()[0].endswith("usage not told")
    assert json.loads(as_json(found))["rows"][0]["untold_calls"] == 2


def test_the_table_shows_exact_amounts_and_totals() -> None:
    text = as_text(report(DEFAULT_BY, [USD, LOST, EUR, FREE]))
    lines = text.splitlines()
    assert lines[0].split() == [
        *("provider", "model", "calls", "succeeded", "tokens", "in", "cached", "tokens", "out", "cost"),
        *("of", "it", "failed", "maybe", "billed", "unpriced"),
    ]
    assert "1.2345 USD" in lines[1]
    assert "2 calls" in lines[1]
    assert "0.000000005 EUR" in text
    assert "4 CALLS" in text
    assert [line.split()[0] for line in lines[4:7]] == ["all", "all", "all"]
    assert "UNPRICED" in text


def test_an_empty_ledger_is_said_and_not_drawn() -> None:
    assert as_text(report(BY, [])) == "no calls have been made yet"


def test_json_holds_decimal_texts_and_null_for_unpriced() -> None:
    tree = json.loads(as_json(report(BY, [USD, FREE])))
    assert tree["by"] == ["provider", "model"]
    first, second = tree["rows"]
    assert (first["provider"], first["cost"], first["failed_but_billed_cost"]) == ("openai", "1.2345", "0.0345")
    assert (second["currency"], second["cost"], second["unpriced_calls"]) == (None, None, 4)
    assert len(tree["totals"]) == 1
    assert tree["totals"][0]["unpriced_calls"] == 4


def test_csv_has_the_same_fields_and_no_formulas() -> None:
    found = report(("model",), [spent("=cmd()", calls=1, cost_nanos=5)])
    (row,) = csv.DictReader(io.StringIO(as_csv(found)))
    assert row["model"] == "'=cmd()"
    assert row["cost"] == "0.000000005"
    json_row = json.loads(as_json(found))["rows"][0]
    assert list(row) == list(json_row)


@pytest.mark.parametrize(("text", "names"), [("day", ("day",)), ("provider, key,provider", ("provider", "key"))])
def test_dimensions_are_names_with_commas_between(text: str, names: tuple[str, ...]) -> None:
    assert dimensions(text) == names


@pytest.mark.parametrize("text", ["", ",", "provider,colour"])
def test_an_unknown_dimension_names_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="provider, model, key, batch, day"):
        dimensions(text)
