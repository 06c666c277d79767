"""Which class speaks for a provider: by its type in the entry-point group that the built-in ones and a stranger's plugin share, or by
the `class` that the configuration names, which may lie beside it.

It does not know any provider by name.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from models.config import ProviderConfig
from models.config_fields import nearest
from models.errors import ConfigError
from models.plugins import found, unclaimed
from worker.http import HttpSender
from worker.providers.base import Provider, Sender
from worker.providers.failures import clean
from worker.providers.masks import provider_secrets


def provider_class(config: ProviderConfig) -> type[Provider]:
    """The class for a provider. Raises ConfigError, with the YAML path, when there is none, more than one, or it is broken."""
    if config.plugin:
        return _named(config)
    kind = config.type
    entries = found().get(kind, ())
    if not entries:
        raise ConfigError(f"{config.place}.type: {unclaimed(kind)}")
    if len(entries) > 1:
        values = ", ".join(entry.value for entry in entries)
        raise ConfigError(
            f"{config.place}.type: {kind!r} is claimed by more than one plugin ({values}); uninstall all but one"
        )
    where = f"{config.place}.type: the plugin {entries[0].value} for {kind!r}"
    try:
        loaded = entries[0].load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where} can't be loaded: {_told(error)}") from error
    return _checked(loaded, where)


def make_provider(config: ProviderConfig, sender: Sender) -> Provider:
    """The provider that a configuration describes. Raises ConfigError as `provider_class` does, and when it can't be made.

    The process's HttpSender is bound to the provider's own timeouts; any other sender is taken as it is.
    """
    kind = provider_class(config)
    try:
        return kind(config, sender.bind(config) if isinstance(sender, HttpSender) else sender)
    except ConfigError:
        raise
    except Exception as error:
        why = clean(_told(error), provider_secrets(config))
        raise ConfigError(f"{config.place}: {kind.__name__} can't be made from this configuration: {why}") from error


def _named(config: ProviderConfig) -> type[Provider]:
    """The class that the configuration names as "module:Class"."""
    where = f"{config.place}.class: {config.plugin}"
    module_name, _, class_name = config.plugin.partition(":")
    module = _imported(module_name, config.folder, where)
    loaded = getattr(module, class_name, None)
    if loaded is None:
        near = nearest(class_name, [name for name, value in vars(module).items() if isinstance(value, type)])
        raise ConfigError(f"{where}: {_file(module) or module_name} has no class {class_name}{near}")
    return _checked(loaded, where)


def _imported(name: str, folder: Path | None, where: str) -> ModuleType:
    """The module; the configuration's folder is the last place that is searched, so it hides nothing."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
    top = name.partition(".")[0]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        _refuse_hidden(top, folder, where)
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{where} can't be loaded: {_told(error)}") from error
        searched = f"{folder} holds none, and none is installed" if folder is not None else "none is installed"
        raise ConfigError(f"{where}: there is no module {error.name}: {searched}") from None
    except (Exception, SystemExit) as error:
        _refuse_hidden(top, folder, where)
        raise ConfigError(f"{where} can't be loaded: {_told(error)}") from error
    _refuse_hidden(top, folder, where)
    return module


def _refuse_hidden(top: str, folder: Path | None, where: str) -> None:
    """Raises ConfigError where the folder has a module of this name, but Python knows another one by it."""
    known = sys.modules.get(top)
    if folder is None or known is None:
        return
    own = next((path for path in (folder / f"{top}.py", folder / top / "__init__.py") if path.exists()), None)
    if own is None:
        return
    file = _file(known)
    if file is None or not os.path.exists(file) or not os.path.samefile(file, own):
        other = "a module of Python's own" if file is None else file
        raise ConfigError(f"{where}: {own} is hidden by {other}, which has the same name; rename yours")


def _checked(loaded: object, where: str) -> type[Provider]:
    if not (isinstance(loaded, type) and issubclass(loaded, Provider)):
        raise ConfigError(f"{where} is no subclass of truckllm.Provider")
    if missing := loaded.missing():
        raise ConfigError(f"{where} is not finished: it has to define {', '.join(missing)}")
    return loaded


def _file(module: ModuleType) -> str | None:
    return getattr(module, "__file__", None)


def _told(error: BaseException) -> str:
    """What was raised, and on which line of whose code: the innermost one outside of the import system."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    said = traceback.format_exception_only(error)[-1].strip()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "importlib" not in frame.filename and frame.filename != __file__:
            return f"{said} ({frame.filename}, line {frame.lineno})"
    return said
