"""What parts of the configuration must agree on though each is right by itself: ids, pools, routes and their currencies.

It does not check single values (`models.config_fields` does).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic_core import PydanticCustomError

from models.config_fields import DAY_LIMIT_FIELDS, LIMIT_FIELDS, nearest

if TYPE_CHECKING:
    from models.config import KeyConfig, ProviderConfig, RouteConfig

Place = tuple[str | int, ...]
"""Where in the tree: ("providers", 0, "keys")."""

Problem = tuple[Place, str]
"""A place in the tree, and what is wrong there."""

SEVERAL = "several"
"""Type of the pydantic error that carries a list of problems, with places below its own, as `problems`."""


def disagreements(
    providers: Mapping[int, ProviderConfig], routes: Mapping[str, RouteConfig], provider_ids: Sequence[str]
) -> list[Problem]:
    """Where parts that are right each by itself don't fit together.

    `providers` are those that could be read, by position; `provider_ids` are the ids of all of them.
    """
    return [
        *_same_ids(providers, routes),
        *_pools_that_differ(providers),
        *_bad_routes(providers, routes, provider_ids),
        *_models_of_two_routes(routes),
    ]


def several(found: Sequence[Problem]) -> PydanticCustomError:
    """Several problems with their places, as the one error that a validator can raise."""
    text = "; ".join(f"{yaml_path(place)}: {what}" for place, what in found)
    return PydanticCustomError(SEVERAL, "{text}", {"text": text, "problems": list(found)})


def yaml_path(place: Iterable[str | int]) -> str:
    """A place in the tree as people write it: providers[0].models["gpt-4o"].pricing."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part.isascii():
            path += f".{part}" if path else part
        else:
            path += f"[{json.dumps(part, ensure_ascii=False)}]"
    return path


NAMED_KEYS = 3
"""Keys of a provider with the same lack that are named one by one; more share one sentence."""


_UNLIMITED = {
    False: "{} calls are not held back for that",
    True: "what the server takes is learned, from a few calls at once on",
}


def unlimited_keys(providers: Sequence[ProviderConfig]) -> list[str]:
    """Returns a warning for every key that nothing holds back; one for all keys of a provider where they are many."""
    found = []
    for p, provider in enumerate(providers):
        alike: dict[tuple[str, bool], list[int]] = {}
        for k, key in enumerate(provider.keys):
            if missing := " and no ".join(_missing_limits(provider, key)):
                alike.setdefault((missing, provider.learns(key)), []).append(k)
        for (missing, learned), places in alike.items():
            if len(places) > NAMED_KEYS:
                first = f"{provider.id}/{provider.keys[places[0]].id}"
                found.append(
                    f"{len(places):,} keys of {provider.id} (the first is {first}) have no {missing}: {_UNLIMITED[learned].format('their')}"
                )
                continue
            found += [
                f"providers[{p}].keys[{k}] ({provider.id}/{provider.keys[k].id}) has no {missing}: {_UNLIMITED[learned].format('its')}"
                for k in places
            ]
    return found


def unpriced_candidates(providers: Sequence[ProviderConfig], routes: Mapping[str, RouteConfig]) -> list[str]:
    """A warning for every candidate of a cost_first route that has a key without a price for it."""
    by_id = {provider.id: provider for provider in providers}
    return [
        f"{yaml_path(('routes', name))} is cost_first, but {candidate} has no price on key {key.id}"
        for name, route in routes.items()
        if route.strategy == "cost_first"
        for candidate, (provider_id, model) in zip(route.candidates, route.pairs(), strict=True)
        for key in by_id[provider_id].keys
        if by_id[provider_id].pricing(key, model) is None
    ]


def _missing_limits(provider: ProviderConfig, key: KeyConfig) -> list[str]:
    """What no limit holds back on this key, not even one for every model it names."""
    models = {*provider.models, *key.models}
    per_model = [provider.model_limits(key, model) for model in models]
    tokens = ("limit_tokens_per_min", "limit_input_tokens_per_min", "limit_output_tokens_per_min")
    missing = []
    for fields in (("limit_req_per_min",), tokens):
        limited = bool(key.limits().keys() & set(fields))
        limited_by_model = bool(models) and all(limits.keys() & set(fields) for limits in per_model)
        if not limited and not limited_by_model:
            missing.append(fields[0])
    return missing


def _same_ids(providers: Mapping[int, ProviderConfig], routes: Mapping[str, RouteConfig]) -> list[Problem]:
    found: list[Problem] = []
    first: dict[str, int] = {}
    for index, provider in providers.items():
        if first.setdefault(provider.id, index) != index:
            found.append(
                (("providers", index, "id"), f"{provider.id!r} is also the id of providers[{first[provider.id]}]")
            )
    for name in routes.keys() & first.keys():
        found.append(
            (("routes", name), "is also the id of a provider: jobs wait under that name, so it must be another")
        )
    return found


def _pools_that_differ(providers: Mapping[int, ProviderConfig]) -> list[Problem]:
    found: list[Problem] = []
    first: dict[str, tuple[ProviderConfig, KeyConfig, str]] = {}
    for p, provider in providers.items():
        for k, key in enumerate(provider.keys):
            if key.pool is None:
                continue
            place: Place = ("providers", p, "keys", k)
            other_provider, other, where = first.setdefault(key.pool, (provider, key, yaml_path(place)))
            mine, others = provider.day_zone(key), other_provider.day_zone(other)
            if mine != others and _limits_days(provider, key):
                what = f"is {mine}, but {where} of the same pool {key.pool!r} has {others}"
                found.append(((*place, "day_resets"), f"{what}: keys of one pool share one quota, so they must agree"))
            for name in (*LIMIT_FIELDS, *DAY_LIMIT_FIELDS, "use"):
                limit, its = getattr(key, name), getattr(other, name)
                if limit != its:
                    what = f"is {_shown(limit)}, but {where} of the same pool {key.pool!r} has {_shown(its)}"
                    found.append(((*place, name), f"{what}: keys of one pool share one quota, so they must agree"))
            for model in sorted(_models_of_both(other_provider, other, provider, key)):
                if _of_model(provider, key, model) != _of_model(other_provider, other, model):
                    what = f"has other limits than on {where} of the same pool {key.pool!r}"
                    found.append(((*place, "models", model), f"{what}: keys of one pool must agree"))
    return found


def _limits_days(provider: ProviderConfig, key: KeyConfig) -> bool:
    return bool(key.day_limits()) or any(
        provider.model_day_limits(key, model) for model in {*provider.models, *key.models}
    )


def _of_model(provider: ProviderConfig, key: KeyConfig, model: str) -> dict[str, int]:
    return {**provider.model_limits(key, model), **provider.model_day_limits(key, model)}


def _models_of_both(
    one: ProviderConfig, key_of_one: KeyConfig, other: ProviderConfig, key_of_other: KeyConfig
) -> set[str]:
    """The models whose limits two keys of a pool must agree on: within a provider all, between two those both name."""
    if one is other:
        return {*key_of_one.models, *key_of_other.models}
    return {*one.models, *key_of_one.models} & {*other.models, *key_of_other.models}


def _shown(limit: float | None) -> str:
    return "no limit" if limit is None else f"{limit}"


def _bad_routes(
    providers: Mapping[int, ProviderConfig], routes: Mapping[str, RouteConfig], provider_ids: Sequence[str]
) -> list[Problem]:
    found: list[Problem] = []
    by_id = {provider.id: provider for provider in providers.values()}
    for name, route in routes.items():
        place = ("routes", name, "candidates")
        if not route.candidates:
            found.append((place, 'is empty: name at least one "provider/model"'))
        for index, (candidate, (provider, _)) in enumerate(zip(route.candidates, route.pairs(), strict=True)):
            if provider not in provider_ids:
                near = nearest(provider, provider_ids)
                known = ", ".join(provider_ids)
                found.append(((*place, index), f"{candidate!r} names no known provider{near} (configured: {known})"))
            if candidate in route.candidates[:index]:
                found.append(((*place, index), f"{candidate!r} is named twice"))
        if route.strategy == "cost_first":
            found.extend(_mixed_currencies(name, route, by_id))
    return found


def _models_of_two_routes(routes: Mapping[str, RouteConfig]) -> list[Problem]:
    found: list[Problem] = []
    first: dict[str, str] = {}
    for name, route in routes.items():
        for index, model in enumerate(route.models):
            if model not in first:
                first[model] = name
                continue
            where = "twice" if first[model] == name else f"by {yaml_path(('routes', first[model]))} too"
            found.append((("routes", name, "models", index), f"{model!r} is named {where}: a model has one route"))
    return found


def _mixed_currencies(name: str, route: RouteConfig, by_id: Mapping[str, ProviderConfig]) -> list[Problem]:
    seen: dict[str, str] = {}
    for provider_id, model in route.pairs():
        provider = by_id.get(provider_id)
        for key in provider.keys if provider else ():
            pricing = provider.pricing(key, model) if provider else None
            if pricing is not None:
                seen.setdefault(pricing.currency, f"{provider_id}/{key.id}")
    if len(seen) < 2:
        return []
    prices = ", ".join(f"{currency} ({where})" for currency, where in sorted(seen.items()))
    what = f"cost_first can't compare prices in different currencies: {prices}"
    return [(("routes", name, "strategy"), f"{what}; give them in one currency, or take another strategy")]
