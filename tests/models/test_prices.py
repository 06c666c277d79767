"""The price of a call: parts of the usage at their own prices, and never a silent 0."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from models.config import Config, Pricing, ProviderConfig
from models.prices import Cost, price
from models.request import Usage

TOKENS = st.integers(0, 10**7)
COSTS = st.decimals(min_value=0, max_value=100, places=6)


def a_pricing(per_thousand: str, currency: str = "USD") -> dict[str, str]:
    return {"input_token_cost": per_thousand, "output_token_cost": per_thousand, "currency": currency}


def test_a_call_without_pricing_is_unpriced_and_not_free() -> None:
    assert price(Usage(1000, 1000), None) is None


def test_a_call_whose_price_is_written_as_zero_is_free() -> None:
    free = Pricing(input_token_cost=Decimal(0), output_token_cost=Decimal(0))
    assert price(Usage(1000, 1000), free) == Cost(0, "USD")


def test_every_part_of_the_input_has_its_own_price() -> None:
    pricing = Pricing(
        input_token_cost=Decimal("0.003"),
        output_token_cost=Decimal("0.015"),
        cached_token_cost=Decimal("0.0003"),
        cache_write_token_cost=Decimal("0.00375"),
        currency="EUR",
    )
    usage = Usage(
        input_tokens=10_000, output_tokens=1_000, cached_tokens=6_000, cache_write_tokens=3_000, reasoning_tokens=400
    )
    # 1,000 fresh at 0.003 + 6,000 cached at 0.0003 + 3,000 written at 0.00375 + 1,000 out at 0.015, each per 1,000
    assert price(usage, pricing) == Cost(3_000_000 + 1_800_000 + 11_250_000 + 15_000_000, "EUR")


def test_cached_tokens_without_a_price_of_their_own_cost_what_input_costs() -> None:
    pricing = Pricing(input_token_cost=Decimal("0.002"), output_token_cost=Decimal(0))
    assert price(Usage(1_000, 0, cached_tokens=500, cache_write_tokens=300), pricing) == Cost(2_000_000, "USD")


def test_a_cached_price_of_zero_is_a_price() -> None:
    pricing = Pricing(input_token_cost=Decimal("0.002"), output_token_cost=Decimal(0), cached_token_cost=Decimal(0))
    assert price(Usage(1_000, 0, cached_tokens=500), pricing) == Cost(1_000_000, "USD")


def test_parts_larger_than_the_whole_are_billed_as_parts() -> None:
    pricing = Pricing(
        input_token_cost=Decimal("0.002"), output_token_cost=Decimal(0), cached_token_cost=Decimal("0.001")
    )
    assert price(Usage(10, 0, cached_tokens=1_000), pricing) == Cost(1_000_000, "USD")


@given(TOKENS, TOKENS, TOKENS, TOKENS, COSTS, COSTS, st.none() | COSTS, st.none() | COSTS)
def test_the_cost_is_the_exact_sum_rounded_once(
    fresh: int,
    cached: int,
    written: int,
    out: int,
    per_in: Decimal,
    per_out: Decimal,
    per_cached: Decimal | None,
    per_written: Decimal | None,
) -> None:
    pricing = Pricing(
        input_token_cost=per_in,
        output_token_cost=per_out,
        cached_token_cost=per_cached,
        cache_write_token_cost=per_written,
    )
    exact = (
        fresh * Fraction(per_in)
        + cached * Fraction(per_in if per_cached is None else per_cached)
        + written * Fraction(per_in if per_written is None else per_written)
        + out * Fraction(per_out)
    ) * Fraction(10**9, 1000)
    cost = price(Usage(fresh + cached + written, out, cached, written), pricing)
    assert cost == Cost(round(exact), "USD")


def test_the_keys_price_for_a_model_goes_before_the_models_and_that_before_the_keys() -> None:
    provider: ProviderConfig = Config.model_validate(
        {
            "providers": [
                {
                    "id": "openai",
                    "models": {"both": {"pricing": a_pricing("2")}, "shared": {"pricing": a_pricing("3")}, "plain": {}},
                    "keys": [
                        {
                            "id": "a",
                            "secret": "s-1",
                            "pricing": a_pricing("4"),
                            "models": {"both": {"pricing": a_pricing("1")}, "shared": {"limit_req_per_min": 3}},
                        },
                        {"id": "b", "secret": "s-2"},
                    ],
                }
            ]
        }
    ).providers[0]

    def cost(key: str, model: str) -> Decimal | None:
        pricing = provider.pricing(provider.key(key), model)
        return pricing.input_token_cost if pricing else None

    assert cost("a", "both") == 1
    assert cost("a", "shared") == 3  # the key names the model, but not its price
    assert cost("a", "plain") == 4
    assert cost("a", "never named") == 4
    assert cost("b", "both") == 2
    assert cost("b", "plain") is None


def test_a_cost_tells_by_what_it_was_counted() -> None:
    usual = {"input_token_cost": "0.0025", "output_token_cost": "0.01", "currency": "EUR"}
    pricing = Pricing(
        **usual, cached_token_cost="0.000125", fees={"web_search_requests": "10"}, tier_factors={"flex": "0.50"}
    )
    terms = "EUR 2.50 in, 0.125 cached, 10.00 out, 10.00 for 1,000 web_search_requests"

    def told(usage: Usage) -> str:
        found = price(usage, pricing)
        assert found is not None
        return found.price

    assert told(Usage(5, 1)) == f"configuration: {terms}"
    assert told(Usage(5, 1, tier="flex")) == f"configuration: {terms}, flex x 0.5"
    changed = price(Usage(5, 1), Pricing(**{**usual, "input_token_cost": "1e-9"}))
    assert changed is not None
    assert changed.price == "configuration: EUR 0.000001 in, 10.00 out"
