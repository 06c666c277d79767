"""What providers last said they sell: kept in the state folder by those who ask, read by those who only want to warn.

It asks nobody; `worker.cli.models` and `doctor --keys` do. A list that can't be read is no list, never an error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from models.config import Config
from models.request import ModelInfo

FILE = "models.json"
SOON = timedelta(days=60)
"""A model that is shut down within this time is warned about."""


@dataclass(frozen=True, slots=True)
class ModelList:
    """One provider's models at `listed_at` (unix seconds), asked at `base_url`."""

    provider: str
    base_url: str
    listed_at: float
    models: tuple[ModelInfo, ...]


def keep(home: Path, lists: Iterable[ModelList]) -> None:
    """Replaces what is kept of these providers. A folder that can't be written keeps nothing."""
    everything = {**kept(home), **{one.provider: one for one in lists}}
    tree = {
        one.provider: {
            "base_url": one.base_url,
            "listed_at": one.listed_at,
            "models": [{"id": model.id, "retires_at": model.retires_at} for model in one.models],
        }
        for one in everything.values()
    }
    new = home / f"{FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        with open(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(tree, file)
        new.replace(home / FILE)


def kept(home: Path) -> dict[str, ModelList]:
    """What is kept, by provider."""
    try:
        tree = json.loads((home / FILE).read_text(encoding="utf-8"))
        return {
            provider: ModelList(
                provider,
                _text(one["base_url"]),
                float(one["listed_at"]),
                tuple(
                    ModelInfo(_text(model["id"]), None if model["retires_at"] is None else _text(model["retires_at"]))
                    for model in one["models"]
                ),
            )
            for provider, one in tree.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return {}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text should be")
    return value


def retirement(model: ModelInfo) -> datetime | None:
    """When it is shut down; None where the provider tells no date that can be read."""
    try:
        found = datetime.fromisoformat(model.retires_at or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def warnings(
    config: Config, used: Iterable[tuple[str, str]], lists: Mapping[str, ModelList], now: datetime
) -> list[str]:
    """A sentence for each model that is gone or will be soon, of those `used`: (lane, model) pairs as jobs have them."""
    said: dict[str, None] = {}
    for lane, model in used:
        for provider, name in config.routes[lane].pairs() if lane in config.routes else [(lane, model)]:
            known = lists.get(provider)
            if known is None or not any((p.id, p.base_url) == (provider, known.base_url) for p in config.providers):
                continue
            date = next((retirement(one) for one in known.models if one.id == name), None)
            if date is not None and date - now <= SOON:
                verb = "was to be" if date <= now else "will be"
                said[
                    f"{provider} says that model {name} {verb} shut down on {date.date()}: choose another one soon"
                ] = None
    return list(said)


def named_models(config: Config) -> set[tuple[str, str]]:
    """(provider, model) pairs that the configuration names."""
    found = {pair for route in config.routes.values() for pair in route.pairs()}
    for provider in config.providers:
        names = {*provider.models, *provider.fallback_models}
        names |= {name for fallbacks in provider.fallback_models.values() for name in fallbacks}
        names |= {name for key in provider.keys for name in key.models}
        found |= {(provider.id, name) for name in names}
    return found
