"""What tokens and tools cost on a key: the node `pricing` of the configuration, and the ground that all its nodes stand on.

It computes no cost (`models.prices` does) and knows no vendor's price list (`models.price_list` does).
"""

from __future__ import annotations

from decimal import Decimal
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

    @property
    def source(self) -> str:
        """Where the price comes from, for people; "" for the configuration."""
        return ""

    def rates(self, tier: str, input_tokens: int) -> tuple[Pricing, Decimal] | None:
        """The prices of a call of this size that this service tier ("": the usual one) served, and what tokens' are multiplied
        with; None if nobody can tell. A price list may have other prices for a tier, and for long inputs."""
        factor = self.tier_factors.get(tier) if tier else Decimal(1)
        return None if factor is None else (self, factor)
