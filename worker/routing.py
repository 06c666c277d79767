"""Which lanes a provider works for, under which model, and whether it may take from a route's lane now: plain functions.

A job on a route waits in the route's lane. The strategy orders the route's providers; one takes from the lane while no better one
has room, so all limits work at once, in the strategy's order. Where the order is the user's own (`ORDERED`), room is what limits and
outages leave, and a process that has no free place hands nothing on. What a job has failed on is in its `excluded`.
"""

from __future__ import annotations

from decimal import Decimal

from models.config import Config, RouteConfig
from models.guesses import asked_fees, asked_tier
from models.prices import price
from models.request import Request, Usage
from worker.standings import View

ORDERED = ("priority", "cost_first")
"""Strategies whose order must not depend on how many calls a process makes at a time. The others are for speed or equal shares, and go
by free places, too."""
ROUND = 16
"""How many jobs a provider may be ahead of the others under round_robin; also the most it takes at once."""


def lanes(config: Config, provider: str) -> list[str]:
    """The lanes that this provider's drain claims from: its own, then the routes that name it."""
    routed = [name for name, route in config.routes.items() if any(p == provider for p, _ in route.pairs())]
    return [provider, *(name for name in routed if name != provider)]


def candidates(config: Config, lane: str) -> list[tuple[str, str]]:
    """(provider, model) of a route's lane, in order; empty for a provider's own lane."""
    route = config.routes.get(lane)
    return list(route.pairs()) if route else []


def model_for(config: Config, lane: str, provider: str, asked: str) -> str:
    """What `provider` is asked for: the route's word for it, else the job's own model."""
    for name, model in candidates(config, lane):
        if name == provider:
            return model
    return asked


def excluded(field: str) -> list[str]:
    """The providers in a job's `excluded` column (',a,b,')."""
    return [name for name in field.split(",") if name]


def excluding(field: str, more: tuple[str, ...]) -> str:
    """The column with these providers added."""
    names = list(dict.fromkeys([*excluded(field), *more]))
    return f",{','.join(names)}," if names else ""


def others(config: Config, lane: str, provider: str, field: str) -> list[str]:
    """The route's other providers that a job may still go to."""
    gone = {provider, *excluded(field)}
    return list(dict.fromkeys(name for name, _ in candidates(config, lane) if name not in gone))


def priced(config: Config, lane: str, provider: str, request: Request, currency: str) -> list[str]:
    """Returns the route's other providers that have a price in this currency for a request, its service tier and tools included."""
    usage = Usage(1, 1, tier=asked_tier(request.input), fees=asked_fees(request.input))
    found = []
    for name, model in candidates(config, lane):
        settings = config.provider(name)
        costs = [price(usage, settings.pricing(key, model or request.model)) for key in settings.keys]
        if name != provider and any(cost is not None and cost.currency == currency for cost in costs):
            found.append(name)
    return list(dict.fromkeys(found))


def larger(config: Config, lane: str, provider: str, field: str) -> list[str]:
    """Those of `others` that may take a prompt too long for this provider: their configured context window is larger, or one of the
    two isn't known."""
    windows: dict[str, int | None] = {}
    for name, model in candidates(config, lane):
        settings = config.provider(name).models.get(model)
        windows.setdefault(name, settings.context_window if settings else None)
    here = windows.get(provider)

    def fits(there: int | None) -> bool:
        return here is None or there is None or there > here

    return [name for name in others(config, lane, provider, field) if fits(windows[name])]


def better(config: Config, route: RouteConfig, provider: str, view: View) -> list[str]:
    """The route's providers that the strategy prefers to this one, given how they stand. Not for round_robin."""
    order = list(dict.fromkeys(name for name, _ in route.pairs()))
    place = {name: number for number, name in enumerate(order)}

    def rank(name: str) -> tuple[Decimal | float, int]:
        if route.strategy == "cost_first":
            return cost(config, route, name), place[name]
        if route.strategy == "latency_first":
            standing = view.standings.get(name)
            # one that nobody has measured goes first, or it never would be
            return (standing.latency_ms or 0.0) if standing else float("inf"), place[name]
        return 0.0, place[name]

    return [name for name in order if rank(name) < rank(provider)]


def cost(config: Config, route: RouteConfig, provider: str) -> Decimal | float:
    """What 1,000 tokens in and 1,000 out cost on the cheapest key of a candidate; infinite when no price is known."""
    settings = config.provider(provider)
    model = next(model for name, model in route.pairs() if name == provider)
    known = [pricing for key in settings.keys if (pricing := settings.pricing(key, model))]
    return min((p.input_token_cost + p.output_token_cost for p in known), default=float("inf"))


def may_take(config: Config, lane: str, provider: str, view: View) -> bool:
    """Whether the strategy lets this provider take from a route's lane now."""
    route = config.routes[lane]
    if route.strategy == "round_robin":
        taken = view.taken.get(lane, {})
        there = [name for name, _ in route.pairs() if _has_room(config, lane, name, view)]
        return taken.get(provider, 0) - min((taken.get(name, 0) for name in there), default=0) < ROUND
    return not any(_has_room(config, lane, name, view) for name in better(config, route, provider, view))


def _has_room(config: Config, lane: str, provider: str, view: View) -> bool:
    """Returns whether a provider is there and could start a call for the model that it has in this route."""
    standing = view.standings.get(provider)
    places = config.routes[lane].strategy not in ORDERED
    return standing is not None and standing.has_room(model_for(config, lane, provider, ""), places=places)
