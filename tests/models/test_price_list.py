"""The price list that can be switched on: which vendor's prices, whose word goes first, and the same sums as the list's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage as ListUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import PriceCalculation

from models.config import Config, ProviderConfig
from models.config_file import load_config_text
from models.errors import ConfigError
from models.price_list import listed
from models.prices import Cost, price
from models.request import Usage

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
USAGES = [
    Usage(1_000, 100),
    Usage(199_999, 1_234, cached_tokens=50_000),
    Usage(200_001, 1_234, cached_tokens=50_000),
    Usage(300_000, 7, cached_tokens=100_000, cache_write_tokens=30_000, cache_write_1h_tokens=10_000),
    Usage(123, 456, fees=(("web_search_requests", 3),)),
    Usage(100_000, 10, cached_tokens=3_000, modalities=(("input_audio", 20_000), ("cached_audio", 1_000))),
]
TIERS: dict[str, dict[str, str]] = {
    "": {},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "batch": {"processing": "batch"},
}


def provider(price_list: object = "genai-prices", **fields: Any) -> ProviderConfig:
    entry = {"id": "openai", "keys": [{"id": "a", "secret": "s-1"}], **fields}
    return Config.model_validate({"providers": [entry], "price_list": price_list}).providers[0]


def cost(one: ProviderConfig, model: str, usage: Usage) -> Cost | None:
    return price(usage, one.pricing(one.keys[0], model))


def test_a_models_price_is_the_lists_when_nothing_else_is_told() -> None:
    # 1,000 x 2.5 + 100 x 10 = 3,500 for a million: 0.0035
    assert cost(provider(), "gpt-4o", Usage(1_000, 100)) == Cost(3_500_000, "USD")
    assert cost(provider(None), "gpt-4o", Usage(1_000, 100)) is None
    assert cost(provider("off"), "gpt-4o", Usage(1_000, 100)) is None


def test_the_configurations_word_goes_before_the_lists() -> None:
    mine = {"input_token_cost": "1", "output_token_cost": "0"}
    by_model = provider(models={"gpt-4o": {"pricing": mine}})
    by_key = provider(keys=[{"id": "a", "secret": "s-1", "pricing": mine}])
    for one in (by_model, by_key):
        assert cost(one, "gpt-4o", Usage(1_000, 100)) == Cost(1_000_000_000, "USD")
    assert cost(by_model, "gpt-4o-mini", Usage(1_000, 100)) == Cost(210_000, "USD")  # 1,000 x 0.15 + 100 x 0.6


@pytest.mark.parametrize(
    ("fields", "model", "known"),
    [
        ({"id": "mine", "type": "openai", "base_url": "https://api.openai.com/v1"}, "gpt-4o", True),
        (
            {"id": "mine", "type": "openai", "base_url": "https://api.groq.com/openai/v1"},
            "llama-3.3-70b-versatile",
            True,
        ),
        ({"id": "mine", "type": "openai", "base_url": "http://127.0.0.1:8000/v1"}, "gpt-4o", False),
        ({"id": "openai", "base_url": "https://gateway.example/v1"}, "gpt-4o", True),
        ({"id": "mine", "type": "gemini", "base_url": "https://gateway.example/v1"}, "models/gemini-2.5-pro", True),
        ({"id": "mine", "type": "claude", "base_url": "https://gateway.example/v1"}, "claude-haiku-4-5", True),
        ({"id": "mine", "type": "claude", "base_url": "https://gateway.example/v1"}, "gpt-4o", False),
        ({"id": "openai"}, "no-such-model", False),
    ],
)
def test_the_vendor_is_told_by_address_then_by_id_then_by_dialect(
    fields: dict[str, Any], model: str, known: bool
) -> None:
    assert (cost(provider(**fields), model, Usage(10, 10)) is not None) is known


def test_a_long_input_costs_more_from_the_first_token_on() -> None:
    gemini = provider(id="gemini")
    # up to 200,000: 1.25 in and 10 out for a million; above: 2.5 and 15
    assert cost(gemini, "gemini-2.5-pro", Usage(200_000, 1_000)) == Cost(260_000_000, "USD")
    assert cost(gemini, "gemini-2.5-pro", Usage(200_001, 1_000)) == Cost(515_002_500, "USD")


def test_a_tier_costs_what_the_list_says_and_is_unpriced_where_it_says_nothing() -> None:
    one = provider()
    assert cost(one, "gpt-5.4-mini", Usage(1_000, 100, tier="flex")) == Cost(600_000, "USD")  # 0.375 and 2.25
    assert cost(one, "gpt-5.4-mini", Usage(1_000, 100, tier="priority")) == Cost(2_400_000, "USD")  # 1.5 and 9
    assert cost(one, "gpt-4o", Usage(1_000, 100, tier="flex")) is None
    assert cost(one, "gpt-4o", Usage(1_000, 100, tier="scale")) is None
    assert cost(one, "gpt-4o", Usage(1_000, 100, fees=(("code_sessions", 1),))) is None


def test_embeddings_have_a_price_and_a_model_without_one_for_output_is_unpriced_when_it_speaks() -> None:
    assert cost(provider(), "text-embedding-3-small", Usage(1_000)) == Cost(20_000, "USD")
    assert cost(provider(), "text-embedding-3-small", Usage(1_000, 1)) is None


def test_prices_of_an_hour_of_the_day_hold_in_that_hour() -> None:
    def at(hour: int) -> Decimal:
        then = datetime(2025, 1, 2, hour, 0, tzinfo=UTC).timestamp()
        found = listed("deepseek", "openai", "https://api.deepseek.com/v1", "deepseek-chat", then)
        assert found is not None
        return found.input_token_cost

    assert at(2) == 2 * at(20)


def told_by_the_list(vendor: str, model: str, usage: Usage, context: dict[str, str]) -> Decimal:
    fields: dict[str, int] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    fields["cache_read_tokens"] = usage.cached_tokens
    fields["cache_write_tokens"] = usage.cache_write_tokens
    fields["cache_write_1h_tokens"] = usage.cache_write_1h_tokens
    fields["web_searches"] = dict(usage.fees).get("web_search_requests", 0)
    kinds = dict(usage.modalities)
    fields["cache_audio_read_tokens"] = kinds.get("cached_audio", 0)
    fields["input_audio_tokens"] = kinds.get("input_audio", 0) + kinds.get("cached_audio", 0)
    snapshot = get_snapshot()
    found, entry = snapshot.find_provider_model(model, None, vendor, None)
    done: PriceCalculation = entry.calc_price(
        ListUsage(**fields), found, genai_request_timestamp=NOW, price_context=context
    )
    return done.total_price


def priced_models() -> Iterator[tuple[str, str, str, str]]:
    for vendor, kind in (("openai", "openai"), ("google", "gemini"), ("anthropic", "claude"), ("groq", "openai")):
        snapshot = get_snapshot()
        for model in next(one for one in snapshot.providers if one.id == vendor).models:
            if re.fullmatch(r"[\w.:-]+", model.id):
                yield vendor, kind, {"google": "gemini", "anthropic": "claude"}.get(vendor, vendor), model.id


def test_every_model_of_the_list_costs_to_the_nano_what_the_package_itself_computes() -> None:
    compared = 0
    for vendor, kind, ours, model in priced_models():
        pricing = listed(ours, kind, "https://gateway.example", model, NOW.timestamp())
        for usage in USAGES:
            for tier, context in TIERS.items():
                mine = price(Usage(**{**as_fields(usage), "tier": tier}), pricing)
                if mine is not None:
                    theirs = told_by_the_list(vendor, model, usage, context) * 10**9
                    assert mine.nanos == round(theirs), (model, usage, tier)
                    compared += 1
    assert compared > 1_000


def as_fields(usage: Usage) -> dict[str, Any]:
    return {name: getattr(usage, name) for name in Usage.__dataclass_fields__}


def test_a_list_that_nobody_knows_is_an_error_that_names_the_known_one() -> None:
    with pytest.raises(ConfigError, match=r"price_list.*genai-prices"):
        load_config_text(
            "providers: [{id: openai, keys: [{id: a, secret: s}]}]\nprice_list: the-best", environ={}, name="x.yaml"
        )


def test_no_connection_is_ever_opened_and_nothing_is_loaded_before_a_price_is_asked_for() -> None:
    code = """
import sys, threading
seen = []
sys.addaudithook(lambda name, arguments: seen.append(name) if name.startswith(("socket.", "urllib.")) else None)
from models.config import Config
tree = {"providers": [{"id": "openai", "keys": [{"id": "a", "secret": "s"}]}], "price_list": "genai-prices"}
one = Config.model_validate(tree).providers[0]
assert "genai_prices" not in sys.modules
assert one.pricing(one.keys[0], "gpt-4o") is not None and one.pricing(one.keys[0], "nobody-has-this") is None
print(sorted(set(seen) - {"socket.gethostname"}), threading.active_count())
"""
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] 1", done.stdout
