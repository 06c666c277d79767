"""Usage × pricing → the cost of one call, or None for "unpriced": a price that nobody told is never taken for 0.

It knows no vendor's prices (`models.price_list` does) and guesses no discount: what isn't configured costs what input costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from models.money import cost_nanos, price_per_million
from models.price_list import ListedPricing
from models.pricing import Pricing
from models.request import Usage

CONFIGURED = "configuration"
"""What the source of a price is called that the configuration tells."""


@dataclass(frozen=True, slots=True)
class Cost:
    """An exact amount: nano-units of a currency."""

    nanos: int
    currency: str
    price: str = field(default="", compare=False)
    """By what it was counted, for people: where the prices come from, and what 1,000,000 tokens cost."""


REPORTED = "reported by the provider"


def charged(usage: Usage, pricing: Pricing | None) -> tuple[Cost | None, str | None]:
    """What one call cost, and by what that was counted or which of its items has no price, for people.

    What the provider itself says that it cost serves where there is no price of ours, or not for all that was billed. A reported
    0 doesn't: gateways report it for models whose prices they don't know.
    """
    cost = price(usage, pricing)
    if cost is not None:
        return cost, cost.price
    missing = f"no price for {', '.join(items)}" if (items := unpriced(usage, pricing)) else None
    if usage.reported_cost is None or not usage.reported_cost[0]:
        return None, missing
    nanos, currency = usage.reported_cost
    return Cost(nanos, currency), REPORTED + (f" ({missing})" if missing else "")


def unpriced(usage: Usage, pricing: Pricing | None) -> list[str]:
    """What of a call has no price though its tokens have: a service tier, uses that are billed by the use."""
    if pricing is None:
        return []
    rates = pricing.rates(usage.tier, usage.input_tokens)
    if rates is None:
        return [f"the tier {usage.tier}"] if usage.tier else []
    return [name for name, uses in usage.fees if uses and name not in rates[0].fees]


def price(usage: Usage, pricing: Pricing | None) -> Cost | None:
    """What one call cost, rounded once; None if there is no pricing, or none for what the call used.

    Cached reads and cache writes are parts of `usage.input_tokens` and billed at their own prices; where one isn't
    configured, at the input price, and writes for an hour at that of other writes. Vendors sell cached reads below it, so that
    over-states. Some sell cache writes above it (Anthropic: 1.25 or 2 times), so whoever writes caches there should configure
    `cache_write_token_cost` and `cache_write_1h_token_cost`. Tokens of sound and images cost what text costs, unless
    `modality_costs` says otherwise. A service tier without a factor, and a tool's use without a fee, leave the call unpriced:
    nobody can tell what they cost.
    """
    if pricing is None:
        return None
    rates = pricing.rates(usage.tier, usage.input_tokens)
    if rates is None or (isinstance(pricing, ListedPricing) and usage.output_tokens and not pricing.speaks):
        return None
    prices, factor = rates
    fees = [(uses, prices.fees.get(name)) for name, uses in usage.fees if uses]
    if any(fee is None for _, fee in fees):
        return None
    nanos = cost_nanos(
        [(tokens, price_per_million(cost)) for tokens, cost in _parts(usage, prices)],
        factor,
        # the price of 1,000 uses, as that of 1,000 tokens
        [(uses, price_per_million(fee)) for uses, fee in fees if fee is not None],
    )
    tier = f", {usage.tier}" if usage.tier else ""
    times = f" x {factor.normalize():f}" if factor != 1 else ""
    return Cost(nanos, prices.currency, f"{pricing.source or CONFIGURED}: {prices.told}{tier}{times}")


def of_text(usage: Usage) -> Usage:
    """Returns the part of a call's usage that any pricing covers: its tokens, at the usual service tier."""
    return replace(usage, tier="", fees=(), reported_cost=None)


def _parts(usage: Usage, prices: Pricing) -> list[tuple[int, Decimal]]:
    """The call's tokens by what they cost, each in one part. A provider that reports parts larger than the whole is billed for the
    parts."""
    kinds = dict(usage.modalities)
    cached, written = usage.cached_tokens, usage.cache_write_tokens
    for_hour = min(usage.cache_write_1h_tokens, written)
    given = prices.input_token_cost
    read = given if prices.cached_token_cost is None else prices.cached_token_cost
    write = given if prices.cache_write_token_cost is None else prices.cache_write_token_cost
    return [
        (max(0, usage.input_tokens - cached - written - _of(kinds, "input_")), given),
        (max(0, cached - _of(kinds, "cached_")), read),
        (written - for_hour, write),
        (for_hour, write if prices.cache_write_1h_token_cost is None else prices.cache_write_1h_token_cost),
        (max(0, usage.output_tokens - _of(kinds, "output_")), prices.output_token_cost),
        *((tokens, prices.modality_costs.get(kind, _otherwise(kind, prices))) for kind, tokens in kinds.items()),
    ]


def _of(kinds: Mapping[str, int], prefix: str) -> int:
    return sum(tokens for kind, tokens in kinds.items() if kind.startswith(prefix))


def _otherwise(kind: str, prices: Pricing) -> Decimal:
    """What tokens of this kind cost where nothing says so: what text does."""
    if kind.startswith("output_"):
        return prices.output_token_cost
    if kind.startswith("cached_") and prices.cached_token_cost is not None:
        return prices.cached_token_cost
    return prices.modality_costs.get(f"input_{kind.partition('_')[2]}", prices.input_token_cost)
