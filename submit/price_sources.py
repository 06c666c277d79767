"""Says of the models that a batch asks for which have no price, and which take theirs from a price list.

It computes no cost; what calls did cost is the ledger's (`submit.reports`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from models.config import Config
from models.money import format_money, price_per_million
from models.pricing import Pricing

SHOWN = 5
"""So many models are named in one sentence; of the others only their number is told."""


def price_notes(config: Config, used: Collection[tuple[str, str]], *, capped: bool = False) -> list[str]:
    """Sentences on the prices of the models that a batch uses, (lane, model) pairs as jobs have them: none for models that the
    configuration prices on all keys. `capped`: its costs are, and what has no price stops it."""
    return unpriced(config, used, capped=capped) + listed_prices(config, used)


def unpriced(config: Config, used: Iterable[tuple[str, str]], *, capped: bool = False) -> list[str]:
    """A sentence that names the models, by lane, that have no price on some key; none if that was said already."""
    if config.from_environment:
        return []
    names = []
    for provider_id, model in _asked(config, used):
        provider = config.provider(provider_id)
        keys = [key.id for key in provider.keys if provider.pricing(key, model) is None]
        if keys:
            some = f" (key {', '.join(keys)})" if len(keys) < len(provider.keys) else ""
            names.append(f"{provider_id}/{model}{some}")
    if not names:
        return []
    hint = "" if config.price_list else ", or switch a price list on (`price_list: genai-prices`)"
    it, its = ("it", "its") if len(names) == 1 else ("they", "their")
    have = "has" if len(names) == 1 else "have"
    stop = "The cap can't hold for that, so the batch is paused before the first such call. " if capped else ""
    return [
        f"UNPRICED: {_shown(names)} {have} no price, so what {it} cost{'s' if it == 'it' else ''} is counted in tokens only. "
        f"{stop}Add pricing to {its} keys or models{hint}"
    ]


def listed_prices(config: Config, used: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence that names the models whose price is a list's word, with the prices of 1,000,000 tokens."""
    if config.price_list is None:
        return []
    names, source = [], ""
    for provider_id, model in _asked(config, used):
        provider = config.provider(provider_id)
        found = (provider.pricing(key, model) for key in provider.keys)
        pricing = next((one for one in found if one is not None and one.source), None)
        if pricing is not None:
            source = pricing.source
            names.append(f"{provider_id}/{model} ({_per_million(pricing)})")
    return [f"prices by {source}, for a million tokens: {_shown(names)}"] if names else []


def _asked(config: Config, used: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Provider and model of each lane and model; all candidates of a route. Lanes that the configuration lost are left out."""
    known = {provider.id for provider in config.providers}
    found: dict[tuple[str, str], None] = {}
    for lane, model in used:
        pairs = config.routes[lane].pairs() if lane in config.routes else ((lane, model),)
        found.update(dict.fromkeys((provider, name) for provider, name in pairs if provider in known))
    return list(found)


def _per_million(pricing: Pricing) -> str:
    given, made = price_per_million(pricing.input_token_cost), price_per_million(pricing.output_token_cost)
    return f"{format_money(given, pricing.currency)} in, {format_money(made, pricing.currency)} out"


def _shown(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
