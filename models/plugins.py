"""Which providers have a plugin on this machine, by entry points and the configuration alone: no plugin is imported to know it.

It loads none; `worker.providers.registry` does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from models.config import Config, ProviderConfig
from models.config_fields import nearest

GROUP = "truckllm.providers"


@functools.cache
def found() -> dict[str, tuple[EntryPoint, ...]]:
    """The plugins of this machine by the type that they claim."""
    by_type: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        same = by_type.get(entry.name, ())
        if entry.value not in {other.value for other in same}:
            by_type[entry.name] = (*same, entry)
    return by_type


def claimed(provider: ProviderConfig) -> bool:
    """Whether a provider names its class, or has a type that a plugin of this machine claims. Whether that loads is another question."""
    return bool(provider.plugin) or provider.type in found()


def known_types() -> list[str]:
    """The types that a provider can have on this machine, sorted."""
    return sorted(found())


def unclaimed(kind: str) -> str:
    """What to say of a type that no plugin claims: all ways out."""
    known = ", ".join(known_types()) or "none: is TruckLLM itself installed?"
    return (
        f"no provider plugin claims the type {kind!r}{nearest(kind, known_types())}. Either install a plugin that registers it in the "
        f"entry-point group {GROUP!r}, name your own by `class: module:Class`, or set `type:` to the dialect that the server speaks, "
        f"such as `type: openai` (known here: {known})"
    )


def unclaimed_in(config: Config, lanes: Iterable[str]) -> list[str]:
    """A sentence for each provider that may take jobs from these lanes and whose type no plugin of this machine claims."""
    names: set[str] = set()
    for lane in lanes:
        names.update({provider for provider, _ in config.routes[lane].pairs()} if lane in config.routes else {lane})
    return [
        f"providers[{index}].type: {unclaimed(provider.type)}"
        for index, provider in enumerate(config.providers)
        if provider.id in names and not claimed(provider)
    ]
