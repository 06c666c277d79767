"""The prices of the package genai-prices, for models that the configuration gives none: as it knows them today, offline.

It never updates the package's data, opens no connection, and guesses nothing: what the list doesn't tell exactly is unpriced.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from models.pricing import Pricing

PACKAGE = "genai-prices"

_BY_TYPE = {"gemini": "google", "claude": "anthropic"}
"""Dialects that only their own vendor sells; OpenAI's is everybody's."""

_COSTS = {
    "input_mtok": "input_token_cost",
    "output_mtok": "output_token_cost",
    "cache_read_mtok": "cached_token_cost",
    "cache_write_mtok": "cache_write_token_cost",
    "cache_write_1h_mtok": "cache_write_1h_token_cost",
}
_MODALITIES = {
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_audio_read_mtok": "cached_audio",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
}
_FEES = {"web_searches_kcount": "web_search_requests", "storage_searches_kcount": "file_search_requests"}
_BESIDE = {"cache_image_read_mtok", "cache_write_5m_mtok", "output_video_mtok", "social_searches_kcount"}
"""What no call of ours is known to be billed by, beside the others."""

_CONTEXTS: dict[str, tuple[Mapping[str, str], ...]] = {
    "flex": ({"service_tier": "flex"},),
    "priority": ({"service_tier": "priority"},),
    "fast": ({"service_tier": "fast"}, {"speed": "fast"}),
    "batch": ({"processing": "batch"},),
}
"""The list's words for the service tiers that have prices of their own there."""


class ListedPricing(Pricing):
    """A model's prices by the list. Tiers and long inputs have whole sets of prices there, not factors."""

    above: tuple[tuple[int, Pricing], ...] = ()
    """(tokens, prices): for calls with more input tokens than that, all of them; ascending."""
    tiers: dict[str, ListedPricing] = {}
    speaks: bool = True
    """Whether the list has a price for output: it has none for embeddings."""

    @property
    def source(self) -> str:
        return _source()

    def rates(self, tier: str, input_tokens: int) -> tuple[Pricing, Decimal] | None:
        if tier:
            return self.tiers[tier].rates("", input_tokens) if tier in self.tiers else None
        found: Pricing = self
        for start, prices in self.above:
            if input_tokens > start:
                found = prices
        return found, Decimal(1)


def listed(provider_id: str, kind: str, base_url: str, model: str, now: float | None = None) -> ListedPricing | None:
    """A model's prices at a provider, at `now` (unix seconds; None: now); None where the list has none, or none that we can go by.

    The vendor is the one that lives at `base_url`; else, behind somebody's gateway, the one that the provider's id names, or
    whose dialect (`kind`) it is. A server of OpenAI's dialect may be anybody's, so that dialect alone tells nothing.
    """
    minute = int((time.time() if now is None else now) // 60)  # some prices hold for hours of the day
    return _listed(provider_id, kind, base_url, model, minute)


@lru_cache(maxsize=1)
def _source() -> str:
    from importlib.metadata import version  # it takes longer than most commands need

    return f"{PACKAGE} {version(PACKAGE)}"


@lru_cache(maxsize=1024)
def _listed(provider_id: str, kind: str, base_url: str, model: str, minute: int) -> ListedPricing | None:
    found = _found(provider_id, kind, base_url, model.removeprefix("models/"))
    if found is None:
        return None
    when = datetime.fromtimestamp(minute * 60, UTC)
    usual = _pricing(found.get_prices(when))
    if usual is None:
        return None
    tiers = {}
    for tier, contexts in _CONTEXTS.items():
        told = [context for context in contexts if _has_variant(found, context, when)]
        if told and (pricing := _pricing(found.get_prices(when, told[0]))) is not None:
            tiers[tier] = pricing
    return usual.model_copy(update={"tiers": tiers})


@lru_cache(maxsize=1024)
def _found(provider_id: str, kind: str, base_url: str, model: str) -> Any:
    """The list's entry for a model; None without one."""
    # Here and not above: it takes a quarter of a second and 90 MB, and only those who switch the list on need it.
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    names = {provider.id for provider in snapshot.providers}
    here = next((one.id for one in snapshot.providers if re.match(one.api_pattern, base_url)), None)
    vendor = here or (provider_id if provider_id in names else _BY_TYPE.get(kind))
    if vendor is None:
        return None
    try:
        return snapshot.find_provider_model(model, None, vendor, None)[1]
    except LookupError:
        return None


def _has_variant(found: Any, context: Mapping[str, str], when: datetime) -> bool:
    """Whether the list has prices of their own for calls of this kind: without, it would give the usual ones for them."""
    return any(
        dict(variant.when) == context and (variant.constraint is None or variant.constraint.active(when))
        for variant in found.price_variants or ()
    )


def _pricing(prices: Any) -> ListedPricing | None:
    """The list's prices in our words. None if it has none for input, or such as are for what we can't count (seconds, pages)."""
    told = {name: value for name, value in vars(prices).items() if value is not None}
    known = _COSTS.keys() | _MODALITIES.keys() | _FEES.keys() | _BESIDE
    if "input_mtok" not in told or told.keys() - known:
        return None
    starts = sorted({tier.start for value in told.values() for tier in getattr(value, "tiers", ())})
    try:
        usual = ListedPricing(**_fields(told, 0), speaks="output_mtok" in told)
        return usual.model_copy(
            update={"above": tuple((start, Pricing(**_fields(told, start + 1))) for start in starts)}
        )
    except ValueError:  # a price finer than money here is
        return None


def _fields(told: Mapping[str, Any], input_tokens: int) -> dict[str, Any]:
    """The fields of a Pricing for a call with so many input tokens. The list's prices are for a million tokens, ours for a thousand."""
    rates = {name: _rate(value, input_tokens) for name, value in told.items()}
    return {
        "output_token_cost": Decimal(0),
        **{ours: rates[name] / 1000 for name, ours in _COSTS.items() if name in rates},
        "modality_costs": {ours: rates[name] / 1000 for name, ours in _MODALITIES.items() if name in rates},
        "fees": {ours: rates[name] for name, ours in _FEES.items() if name in rates},
    }


def _rate(value: Any, input_tokens: int) -> Decimal:
    if isinstance(value, Decimal):
        return value
    rate: Decimal = next((tier.price for tier in reversed(value.tiers) if input_tokens > tier.start), value.base)
    return rate
