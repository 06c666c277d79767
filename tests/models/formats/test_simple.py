"""The simple dialect: the neutral shape that providers translate from, and the result line."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.formats.results import Outcome, result_line
from models.formats.simple import simple_input

FIELDS = [
    "id",
    "status",
    "text",
    "error",
    "provider",
    "key_id",
    "requested_model",
    "served_model",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cost",
    "currency",
    "latency_ms",
    "attempts",
    "metadata",
]

DONE = Outcome(
    custom_id="row-1",
    dialect="simple",
    status="succeeded",
    body=b'{"id":"row-1","prompt":"hi","metadata":{"n": 1.50, "list":[1,2]}}',
    text="Hello",
    response=b'{"choices":[]}',
    http_status=200,
    provider="openai",
    key_id="k1",
    requested_model="gpt-4o",
    served_model="gpt-4o-2024-11-20",
    finish_reason="stop",
    input_tokens=9,
    output_tokens=12,
    cached_tokens=4,
    cost_nanos=138_000,
    currency="USD",
    latency_ms=420,
    attempts=2,
    attempt_id=77,
)


def parsed(outcome: Outcome) -> dict[str, Any]:
    line = result_line(outcome)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    row: dict[str, Any] = json.loads(line, parse_float=Decimal)
    return row


@pytest.mark.parametrize(
    ("row", "neutral"),
    [
        ({"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}),
        ({"input": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}),
        (
            {"prompt": "hi", "system": "Be terse."},
            {"messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "hi"}]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "x"}], "system": "S"},
            {
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "x"},
                ]
            },
        ),
        ({"input": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "user", "content": "a"}]}),
        (
            {
                "prompt": "hi",
                "id": 1,
                "custom_id": "1",
                "model": "m",
                "provider": "p",
                "route": "r",
                "metadata": {"a": 1},
                "max_tokens": 64,
                "temperature": 0.25,
                "stream": True,
                "vendor_option": {"deep": [None]},
            },
            {
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 64,
                "temperature": 0.25,
                "stream": True,
                "vendor_option": {"deep": [None]},
            },
        ),
        ({"prompt": "", "messages": None}, {"messages": [{"role": "user", "content": ""}]}),
    ],
)
def test_a_simple_line_becomes_the_neutral_chat_shape(row: dict[str, Any], neutral: dict[str, Any]) -> None:
    assert simple_input(json.dumps(row).encode()) == neutral


def test_whole_numbers_of_any_size_keep_every_digit() -> None:
    neutral = simple_input(b'{"prompt":"hi","logit_bias":{"a":123456789012345678901234567890}}')
    assert neutral["logit_bias"]["a"] == 123456789012345678901234567890


def test_a_result_has_exactly_the_documented_fields_in_order() -> None:
    assert list(parsed(DONE)) == FIELDS
    assert list(parsed(Outcome("a", "simple", "queued", b'{"prompt":"hi"}'))) == FIELDS


def test_a_succeeded_line_tells_answer_tokens_and_cost() -> None:
    assert parsed(DONE) == {
        "id": "row-1",
        "status": "succeeded",
        "text": "Hello",
        "error": None,
        "provider": "openai",
        "key_id": "k1",
        "requested_model": "gpt-4o",
        "served_model": "gpt-4o-2024-11-20",
        "finish_reason": "stop",
        "input_tokens": 9,
        "output_tokens": 12,
        "cached_tokens": 4,
        "cost": Decimal("0.000138"),
        "currency": "USD",
        "latency_ms": 420,
        "attempts": 2,
        "metadata": {"n": Decimal("1.50"), "list": [1, 2]},
    }


def test_metadata_comes_back_byte_for_byte() -> None:
    assert result_line(DONE).endswith(b'"metadata":{"n": 1.50, "list":[1,2]}}\n')
    split = replace(DONE, body=b'{"prompt":"hi","metadata":{"a":\r"x  y"}}')
    assert result_line(split).endswith(b'"metadata":{"a":"x  y"}}\n')


def test_a_failed_line_tells_code_and_message() -> None:
    row = parsed(replace(DONE, status="failed", text=None, error_code="http_503", error_message="overloaded"))
    assert row["error"] == {"code": "http_503", "message": "overloaded"}
    assert row["status"] == "failed"


def test_unpriced_is_null_and_free_is_zero() -> None:
    assert b'"cost":null' in result_line(replace(DONE, cost_nanos=None))
    assert parsed(replace(DONE, cost_nanos=0))["cost"] == 0


def test_an_id_given_as_a_number_goes_back_as_a_number() -> None:
    assert result_line(replace(DONE, custom_id="7", body=b'{"id": 7,"prompt":"hi"}')).startswith(b'{"id":7,')
    assert result_line(replace(DONE, custom_id="7", body=b'{"id":"7","prompt":"hi"}')).startswith(b'{"id":"7",')
    assert result_line(replace(DONE, custom_id="line-3", body=b'{"prompt":"hi"}')).startswith(b'{"id":"line-3",')


def test_a_pruned_input_still_gives_a_line() -> None:
    assert parsed(replace(DONE, body=b""))["metadata"] is None


def test_text_with_lone_surrogates_or_line_breaks_stays_one_line_of_utf8() -> None:
    row = parsed(replace(DONE, text="a\ud800b\nc\r\u2028", error_code="x", error_message="\udfff"))
    assert row["text"] == "a?b\nc\r\u2028"
    assert row["error"] == {"code": "x", "message": "?"}


@given(st.integers(0, 10**24))
def test_cost_is_the_exact_decimal_without_exponent(nanos: int) -> None:
    line = result_line(replace(DONE, cost_nanos=nanos))
    written = line.split(b'"cost":')[1].split(b",")[0]
    assert Decimal(written.decode()).scaleb(9) == nanos if nanos < 10**18 else int(written.replace(b".", b"")) > 0
    assert b"E" not in written.upper()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet=st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(_json.filter(lambda value: "\ud800" not in repr(value)), st.text())
def test_metadata_and_text_survive_the_round_trip(given_metadata: Any, text: str) -> None:
    body = msgspec.json.encode({"prompt": "hi", "metadata": given_metadata})
    row = parsed(replace(DONE, body=body, text=text))
    assert row["metadata"] == given_metadata
    assert row["text"] == text.encode("utf-8", "replace").decode()
