"""Which lanes a provider works for, and under which model: plain functions of the configuration.

A job on a route waits in the route's lane, and every provider of the route takes from it as its own limits allow; those that a
job has failed on are in its `excluded`.
"""

from __future__ import annotations

from models.config import Config


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


def larger(config: Config, lane: str, provider: str, field: str) -> list[str]:
    """Those of `others` whose configured context window is larger than this provider's."""
    windows: dict[str, int | None] = {}
    for name, model in candidates(config, lane):
        settings = config.provider(name).models.get(model)
        windows.setdefault(name, settings.context_window if settings else None)
    here = windows.get(provider)
    if here is None:
        return []
    return [name for name in others(config, lane, provider, field) if (windows[name] or 0) > here]
