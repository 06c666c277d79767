"""Usage × pricing → the cost of one call, or None for "unpriced": a price nobody configured is never taken for 0.

It knows no vendor's price list and guesses no discount: what isn't configured costs what input costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from models.config import KeyConfig, Pricing, ProviderConfig
from models.money import cost_nanos, price_per_million
from models.request import Usage


@dataclass(frozen=True, slots=True)
class Cost:
    """An exact amount: nano-units of a currency."""

    nanos: int
    currency: str


def price(usage: Usage, pricing: Pricing | None) -> Cost | None:
    """What one call cost, rounded once; None if there is no pricing, or none for what the call used.

    Cached reads and cache writes are parts of `usage.input_tokens` and billed at their own prices; where one isn't
    configured, at the input price, and writes for an hour at that of other writes. Vendors sell cached reads below it, so that
    over-states. Some sell cache writes above it (Anthropic: 1.25 or 2 times), so whoever writes caches there should configure
    `cache_write_token_cost` and `cache_write_1h_token_cost`. A service tier without a factor, and a tool's use without a fee,
    leave the call unpriced: nobody can tell what they cost.
    """
    if pricing is None:
        return None
    factor = pricing.tier_factors.get(usage.tier) if usage.tier else Decimal(1)
    fees = [(uses, pricing.fees.get(name)) for name, uses in usage.fees if uses]
    if factor is None or any(fee is None for _, fee in fees):
        return None
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    for_hour = min(usage.cache_write_1h_tokens, written)
    # A provider that reports parts larger than the whole is billed for the parts.
    fresh = max(0, usage.input_tokens - cached - written)
    given = pricing.input_token_cost
    write = given if pricing.cache_write_token_cost is None else pricing.cache_write_token_cost
    parts = (
        (fresh, given),
        (cached, given if pricing.cached_token_cost is None else pricing.cached_token_cost),
        (written - for_hour, write),
        (for_hour, write if pricing.cache_write_1h_token_cost is None else pricing.cache_write_1h_token_cost),
        (usage.output_tokens, pricing.output_token_cost),
    )
    nanos = cost_nanos(
        [(tokens, price_per_million(cost)) for tokens, cost in parts],
        factor,
        # the price of 1,000 uses, as that of 1,000 tokens
        [(uses, price_per_million(fee)) for uses, fee in fees if fee is not None],
    )
    return Cost(nanos, pricing.currency)


def pricing_for(provider: ProviderConfig, key: KeyConfig, model: str) -> Pricing | None:
    """The pricing of a model on a key: the key's for this model, else the provider's for it, else the key's for all models."""
    return provider.pricing(key, model)
