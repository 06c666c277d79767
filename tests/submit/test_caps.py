"""What is said at submit of how exact a cap can be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.config import Config
from models.config_file import load_config_text
from models.store.budgets import FIRST_CALLS
from submit.caps import exactness, longest_output

PRICE = {"input_token_cost": "0.001", "output_token_cost": "0.002"}


def config(*, kind: str = "openai", route: bool = False, **model: Any) -> Config:
    tree = {
        "providers": [
            {"id": "it", "type": kind, "keys": [{"id": "k", "secret": "s", "pricing": PRICE}], "models": {"m": model}},
            {"id": "other", "type": "openai", "keys": [{"id": "k", "secret": "s", "pricing": PRICE}]},
        ],
        **({"routes": {"r": {"candidates": ["it/m", "other/x"]}}} if route else {}),
    }
    return load_config_text(json.dumps(tree), secrets=True, environ={})


def test_where_all_lines_are_bounded_only_wrong_estimates_of_the_first_calls_exceed_the_cap() -> None:
    said = exactness(config(), {})
    assert "max_tokens" not in said
    assert f"the first calls ({FIRST_CALLS}, or one each of up to 16 models)" in said


def test_lines_without_a_bound_are_counted_and_their_models_named() -> None:
    said = exactness(config(), {("it", "m"): 3, ("other", "x"): 4})
    assert said.startswith("7 lines have no max_tokens, and the longest output of it/m, other/x isn't configured")
    assert "beyond 1,000 output tokens each" in said
    assert "at most" not in said


def test_a_context_window_bounds_the_excess_in_money() -> None:
    said = exactness(config(context_window=101_000), {("it", "m"): 3})
    assert "at most 0.80 USD" in said, f"{FIRST_CALLS} calls of 100,000 tokens at 0.002 for 1,000"


@pytest.mark.parametrize(
    ("settings", "longest"),
    [({}, None), ({"max_output_tokens": 500}, 500), ({"kind": "claude"}, 4096), ({"context_window": 10}, None)],
)
def test_a_model_whose_longest_output_is_known_needs_no_bound(settings: dict[str, Any], longest: int | None) -> None:
    one = config(**settings)
    assert longest_output(one.provider("it"), "m") == longest
    assert ("no max_tokens" in exactness(one, {("it", "m"): 3})) == (longest is None)


def test_a_route_is_as_exact_as_the_least_of_its_candidates() -> None:
    said = exactness(config(route=True, max_output_tokens=500), {("r", ""): 2})
    assert "2 lines have no max_tokens, and the longest output of other/x isn't configured" in said
