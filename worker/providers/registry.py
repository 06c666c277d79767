"""Which class speaks which dialect: looked up in the entry-point group that the built-in providers and a stranger's plugin share.

It does not know any provider by name.
"""

from __future__ import annotations

from models.config import ProviderConfig
from models.errors import ConfigError
from models.plugins import found, unclaimed
from worker.http import HttpSender
from worker.providers.base import Provider, Sender


def provider_class(kind: str) -> type[Provider]:
    """The class for a provider's `type`. Raises ConfigError when no plugin claims it, or more than one, or it is broken."""
    entries = found().get(kind, ())
    if not entries:
        raise ConfigError(unclaimed(kind))
    if len(entries) > 1:
        values = ", ".join(entry.value for entry in entries)
        raise ConfigError(f"the type {kind!r} is claimed by more than one plugin ({values}); uninstall all but one")
    try:
        loaded = entries[0].load()
    except Exception as error:
        raise ConfigError(f"the plugin {entries[0].value} for the type {kind!r} can't be loaded: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Provider)):
        raise ConfigError(f"the plugin {entries[0].value} for the type {kind!r} is no subclass of truckllm.Provider")
    return loaded


def make_provider(config: ProviderConfig, sender: Sender) -> Provider:
    """The provider that a configuration describes. Raises ConfigError for an unknown type.

    The process's HttpSender is bound to the provider's own timeouts; any other sender is taken as it is.
    """
    kind = provider_class(config.type)
    return kind(config, sender.bind(config) if isinstance(sender, HttpSender) else sender)
