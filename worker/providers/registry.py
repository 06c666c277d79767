"""Which class speaks which dialect: looked up in the entry-point group that the built-in providers and a stranger's plugin share.

It does not know any provider by name.
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points

from models.config import ProviderConfig
from models.errors import ConfigError
from worker.http import HttpSender
from worker.providers.base import Provider, Sender

GROUP = "truckllm.providers"


@functools.cache
def _found() -> dict[str, tuple[EntryPoint, ...]]:
    by_type: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        same = by_type.get(entry.name, ())
        if entry.value not in {other.value for other in same}:
            by_type[entry.name] = (*same, entry)
    return by_type


def known_types() -> list[str]:
    """The types that a provider can have on this machine, sorted."""
    return sorted(_found())


def provider_class(kind: str) -> type[Provider]:
    """The class for a provider's `type`. Raises ConfigError when no plugin claims it, or more than one, or it is broken."""
    entries = _found().get(kind, ())
    if not entries:
        known = ", ".join(known_types()) or "none: is TruckLLM itself installed?"
        raise ConfigError(
            f"no provider plugin claims the type {kind!r}. Either install a plugin that registers it in the entry-point "
            f"group {GROUP!r}, or set `type:` to the dialect that the server speaks, such as `type: openai` "
            f"(known here: {known})"
        )
    if len(entries) > 1:
        values = ", ".join(entry.value for entry in entries)
        raise ConfigError(f"the type {kind!r} is claimed by more than one plugin ({values}); uninstall all but one")
    try:
        found = entries[0].load()
    except Exception as error:
        raise ConfigError(f"the plugin {entries[0].value} for the type {kind!r} can't be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Provider)):
        raise ConfigError(f"the plugin {entries[0].value} for the type {kind!r} is no subclass of truckllm.Provider")
    return found


def make_provider(config: ProviderConfig, sender: Sender) -> Provider:
    """The provider that a configuration describes. Raises ConfigError for an unknown type.

    The process's HttpSender is bound to the provider's own timeouts; any other sender is taken as it is.
    """
    kind = provider_class(config.type)
    return kind(config, sender.bind(config) if isinstance(sender, HttpSender) else sender)
