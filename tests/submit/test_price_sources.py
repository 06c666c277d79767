"""What is said of prices when a batch is submitted: models without one, once each, and whose price is a list's word."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.config import Config
from models.config_file import load_config_text
from models.database import Database, open_database
from models.tables import jobs
from submit.price_sources import listed_prices, price_notes, unpriced
from submit.producer import submit_batch

PRICED = "pricing: {input_token_cost: 1, output_token_cost: 2}"
LISTED = "genai-prices 0."


def a_config(keys: str, more: str = "") -> Config:
    return load_config_text(f"providers:\n  - {{id: openai, keys: [{keys}]}}\n{more}")


def test_models_that_have_a_price_are_not_mentioned() -> None:
    config = a_config(f"{{id: a, secret: s, {PRICED}}}")
    assert unpriced(config, [("openai", "m")]) == []
    assert listed_prices(config, [("openai", "m")]) == []


def test_models_without_a_price_are_named_once_with_what_to_do() -> None:
    (said,) = unpriced(a_config("{id: a, secret: s}"), [("openai", "m"), ("openai", "n"), ("openai", "m")])
    assert said.startswith("UNPRICED: openai/m, openai/n have no price, so what they cost is counted in tokens only.")
    assert "price_list: genai-prices" in said


def test_a_cap_that_cannot_hold_is_told_before_anything_is_asked() -> None:
    config = a_config("{id: a, secret: s}")
    (said,) = price_notes(config, [("openai", "m")], capped=True)
    assert "the batch is paused before the first such call. Add pricing" in said
    (said,) = price_notes(config, [("openai", "m")])
    assert "paused" not in said


def test_a_key_that_alone_has_no_price_is_named() -> None:
    config = a_config(f"{{id: a, secret: s, {PRICED}}}, {{id: b, secret: t}}")
    (said,) = unpriced(config, [("openai", "m")])
    assert "openai/m (key b) has no price, so what it costs" in said


def test_of_many_models_five_are_named_and_the_others_counted() -> None:
    (said,) = unpriced(a_config("{id: a, secret: s}"), [("openai", f"m-{n}") for n in range(1_007)])
    assert "m-4 and 1,002 more have" in said
    assert "m-5" not in said


def test_a_route_stands_for_all_its_candidates_and_lost_lanes_for_nothing() -> None:
    routes = "routes: {r: {candidates: [openai/x, openai/y]}}"
    config = a_config("{id: a, secret: s}", routes)
    (said,) = unpriced(config, [("r", "whatever"), ("gone", "z")])
    assert "openai/x, openai/y have" in said
    assert "whatever" not in said
    assert "z" not in said.split(" have ")[0].split(": ")[1]


def test_a_list_that_is_switched_on_is_named_with_its_version_and_its_prices() -> None:
    config = a_config("{id: a, secret: s}", "price_list: genai-prices")
    (said,) = listed_prices(config, [("openai", "gpt-4o"), ("openai", "mine")])
    assert said.startswith(f"prices by {LISTED}")
    assert said.endswith("for a million tokens: openai/gpt-4o (2.50 USD in, 10.00 USD out)")
    (missing,) = unpriced(config, [("openai", "gpt-4o"), ("openai", "mine")])
    assert missing.startswith("UNPRICED: openai/mine has no price")
    assert "switch" not in missing


def test_keys_of_the_environment_alone_are_said_to_have_no_prices_once_only() -> None:
    config = a_config("{id: a, secret: s}")
    config._keys_found = ("OPENAI_API_KEY",)
    assert unpriced(config, [("openai", "m")]) == []
    assert "NO PRICES" in config.warnings[0]


def test_a_submission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUCKLLM_HOME", str(tmp_path / "home"))
    database: Database = open_database(f"sqlite:///{tmp_path}/x.db")
    config = a_config("{id: a, secret: s, limit_req_per_min: 1, limit_tokens_per_min: 1}", "price_list: genai-prices")
    lines = [{"prompt": "x", "model": name} for name in ("gpt-4o", "gpt-4o", "mine")]
    first, second = submit_batch(lines, config=config, database=database).warnings
    assert first.startswith("UNPRICED: openai/mine has")
    assert second.startswith("prices by genai-prices")
    with database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.model == "mine").values(status="running"))
    found_again = submit_batch(lines, config=config, database=database)
    database.close()
    assert found_again.found == "resumed"
    assert found_again.warnings == (second,)  # of what still waits
