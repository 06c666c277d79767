"""What tokens and tools cost on a key: the node `pricing` of the configuration, and the ground that all its nodes stand on.

It computes no cost (`models.prices` does) and knows no vendor's price list (`models.price_list` does).
"""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.config_fields import CostPerThousand, Currency, Factor, Modality, Text
from models.money import DEFAULT_CURRENCY


class Node(BaseModel):
    """Frozen, without unknown fields, and with no values in its error texts (they might be secrets)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _blank_is_absent(cls, data: Any) -> Any:
        """`headers:` with nothing behind it, as it is left when its lines are commented out, means the default."""
        if not isinstance(data, dict):
            return data
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in data.items() if value is not None or name not in optional}


class Pricing(Node):
    """What 1,000 tokens cost, in units of `currency`.

    Without a price of their own, tokens read from or written to the provider's cache cost what input costs, those written
    for an hour what others written cost, and those that are sound or images (`modality_costs`) what text costs. `tier_factors`
    are for calls that another service tier served (flex: 0.5); `fees` are the prices of 1,000 uses of a tool that the provider
    bills by the use, such as web_search_requests.
    """

    input_token_cost: CostPerThousand
    output_token_cost: CostPerThousand
    cached_token_cost: CostPerThousand | None = None
    cache_write_token_cost: CostPerThousand | None = None
    cache_write_1h_token_cost: CostPerThousand | None = None
    modality_costs: dict[Modality, CostPerThousand] = Field(default_factory=dict)
    tier_factors: dict[Text, Factor] = Field(default_factory=dict)
    fees: dict[Text, CostPerThousand] = Field(default_factory=dict)
    currency: Currency = DEFAULT_CURRENCY

    @cached_property
    def told(self) -> str:
        """These prices for people: what 1,000,000 tokens of each kind cost, and 1,000 uses of a tool. "USD 2.50 in, 10.00 out"."""
        tokens = {
            "in": self.input_token_cost,
            "cached": self.cached_token_cost,
            "written to the cache": self.cache_write_token_cost,
            "written for an hour": self.cache_write_1h_token_cost,
            "out": self.output_token_cost,
            **{kind.replace("_", " "): cost for kind, cost in self.modality_costs.items()},
            **{f"for 1,000 {name}": cost / 1000 for name, cost in self.fees.items()},
        }
        parts = [f"{_amount(cost)} {name}" for name, cost in tokens.items() if cost is not None]
        return f"{self.currency} {', '.join(parts)}"

    @property
    def source(self) -> str:
        """Where the price comes from, for people; "" for the configuration."""
        return ""

    def rates(self, tier: str, input_tokens: int) -> tuple[Pricing, Decimal] | None:
        """The prices of a call of this size that this service tier ("": the usual one) served, and what tokens' are multiplied
        with; None if nobody can tell. A price list may have other prices for a tier, and for long inputs."""
        factor = self.tier_factors.get(tier) if tier else Decimal(1)
        return None if factor is None else (self, factor)


def _amount(per_thousand: Decimal) -> str:
    """What a million costs, with two decimals or as many more as it needs."""
    digits = format(per_thousand * 1000, "f")
    whole, _, part = digits.partition(".")
    return f"{whole}.{part.rstrip('0').ljust(2, '0')}"
