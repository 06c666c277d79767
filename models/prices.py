"""Usage × pricing → the cost of one call, or None for "unpriced": a price nobody configured is never taken for 0.

It knows no vendor's price list and guesses no discount: what isn't configured costs what input costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.config import KeyConfig, Pricing, ProviderConfig
from models.money import cost_nanos, price_per_million
from models.request import Usage


@dataclass(frozen=True, slots=True)
class Cost:
    """An exact amount: nano-units of a currency."""

    nanos: int
    currency: str


def price(usage: Usage, pricing: Pricing | None) -> Cost | None:
    """What one call cost, rounded once; None if there is no pricing.

    Cached reads and cache writes are parts of `usage.input_tokens` and billed at their own prices; where one isn't
    configured, at the input price. Vendors sell cached reads below it, so that over-states. Some sell cache writes above
    it (Anthropic: 1.25 or 2 times), so whoever writes caches there should configure `cache_write_token_cost`.
    """
    if pricing is None:
        return None
    per_input = price_per_million(pricing.input_token_cost)
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    # A provider that reports parts larger than the whole is billed for the parts.
    fresh = max(0, usage.input_tokens - cached - written)
    nanos = cost_nanos(
        (
            (fresh, per_input),
            (cached, per_input if pricing.cached_token_cost is None else price_per_million(pricing.cached_token_cost)),
            (
                written,
                per_input
                if pricing.cache_write_token_cost is None
                else price_per_million(pricing.cache_write_token_cost),
            ),
            (usage.output_tokens, price_per_million(pricing.output_token_cost)),
        )
    )
    return Cost(nanos, pricing.currency)


def pricing_for(provider: ProviderConfig, key: KeyConfig, model: str) -> Pricing | None:
    """The pricing of a model on a key: the key's for this model, else the provider's for it, else the key's for all models."""
    return provider.pricing(key, model)
