"""Which lane a line waits in, and which model it asks for there: the one place that finds a provider by a model's name.

It does not call providers and holds no list of model names: what a vendor sells is known from the configuration and from how the
vendor's names begin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from models.config import BASE_URLS, Config, ProviderConfig
from models.config_fields import nearest
from models.formats.fields import show
from models.request import CHAT, SIMPLE

_PREFIXES = {
    "openai": re.compile(r"(ft:)?(gpt-|chatgpt-|o\d)|text-embedding-(ada|[1-9])"),
    "claude": re.compile(r"claude-"),
    "gemini": re.compile(r"(models/)?gemini-"),
}
"""How model names of each dialect's own vendor begin."""

_OWN_NAMES = re.compile(
    r"openrouter/(auto(-\w+)?|free|bodybuilder|[\w.-]+-(alpha|beta))(:\w+)?|groq/compound(-mini)?", re.ASCII
)
"""Models that vendors sell under their own name, which is no prefix then (OpenRouter docs: model routing; Groq docs: compound)."""

_BODIES = {"openai": "an OpenAI body", "claude": "a Claude body", "gemini": "a Gemini body"}
_REMEMBERED = 4096
LONGEST_MODEL = 300
"""Characters of a model's name: it becomes a column of the database."""
_BUILT_IN = frozenset(BASE_URLS)


class NoLane(ValueError):
    """No provider, or more than one, for what a line asks for; the message says what to write instead."""


class Lanes:
    """Lanes of one configuration. Answers are remembered: a file of 100,000 lines asks for a few models."""

    def __init__(self, config: Config) -> None:
        self._providers = {provider.id: provider for provider in config.providers}
        self._routes = config.routes
        self._route_of = {model: name for name, route in config.routes.items() for model in route.models}
        self._known: dict[tuple[str | None, str | None, str | None, str, str, bool], tuple[str, str]] = {}

    def check(self, *, provider: str | None = None, route: str | None = None) -> None:
        """Raises NoLane for a provider or route that isn't configured, telling the nearest one that is."""
        if provider is not None and provider not in self._providers:
            raise NoLane(f"no provider {show(provider)}{nearest(provider, self._providers)} ({self._configured()})")
        if route is not None and route not in self._routes:
            known = f"routes: {', '.join(self._routes)}" if self._routes else "no routes are configured"
            raise NoLane(f"no route {show(route)}{nearest(route, self._routes)} ({known})")

    def name_at(self, provider: str | None, model: str | None) -> str | None:
        """Returns the model's name at a provider: without the provider's id in front, unless its `models` list it so or the vendor does."""
        settings = self._providers.get(provider or "")
        if not model or settings is None or _lists(settings, model):
            return model
        return model.removeprefix(f"{settings.id}/") or model

    def models_of(self, route: str) -> tuple[str, ...]:
        """Returns the models of a route's candidates; none for a route that isn't configured."""
        return tuple(model for _, model in self._routes[route].pairs()) if route in self._routes else ()

    def has_plugin(self, lane: str) -> bool:
        """Returns True where a plugin may serve the lane: its parameters are its own affair."""
        ids = [provider for provider, _ in self._routes[lane].pairs()] if lane in self._routes else [lane]
        return any(self._providers[one].type not in _BUILT_IN for one in ids)

    def resolve(
        self,
        *,
        model: str | None,
        provider: str | None = None,
        route: str | None = None,
        dialect: str = SIMPLE,
        operation: str = CHAT,
        alone: bool = False,
    ) -> tuple[str, str]:
        """The lane (provider's id or route's name) and the model to ask for there ("" on a route: its candidates name it).

        `dialect` is that of the line's body. In this order: `provider`, which takes `model` as it is; `route`; the route whose
        `models` name the model; the `models` of a provider or key that name it; `provider/model`; the beginning of its name; the
        only provider, or the only one of the body's own dialect. A body that asks for chat may go to any of them: what can't be translated is told
        at the call. Any other `operation` is only for providers of its own dialect. `alone`: a route stands for its first candidate
        and nothing else. Raises NoLane.
        """
        asked = (model, provider, route, dialect, operation, alone)
        found = self._known.get(asked)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            # what a body asks of its own dialect only is bound to it; None: no dialect is
            bound = None if dialect == SIMPLE or operation == CHAT else operation
            found = self._find(model, provider, route, dialect, bound, alone)
            _check_model(found[1])
            self._known[asked] = found
        return found

    def _find(
        self, model: str | None, provider: str | None, route: str | None, dialect: str, bound: str | None, alone: bool
    ) -> tuple[str, str]:
        if provider is not None and route is not None:
            raise NoLane(f"names both provider {show(provider)} and route {show(route)}: keep one of them")
        self.check(provider=provider, route=route)
        if route is not None:
            return self._route(route, dialect, bound, alone)
        if not model:
            raise NoLane('has no model: add "model" to the line, or use --model')
        if provider is not None:
            return self._fitting([self._providers[provider]], model, dialect, bound), model
        if model in self._route_of:
            return self._route(self._route_of[model], dialect, bound, alone)
        before, slash, after = model.partition("/")
        if slash and before in self._providers:
            # the names of some vendors' models begin with what is a provider's id here: openai/gpt-4o at an aggregator
            listing = [one for one in self._providers.values() if _lists(one, model)]
            named = self._providers[before]
            if not listing:
                if not after:
                    raise NoLane(f"model {show(model)} names a provider and no model")
                return self._fitting([named], model, dialect, bound), after
            if named not in listing and named.names_model(after):
                raise NoLane(
                    f"model {show(model)} is in the models of {_names(listing)}, and {show(after)} in those of "
                    f'{_names([named])}: add "provider" to the line, or use --provider'
                )
        return self._fitting(self._candidates(model, dialect), model, dialect, bound), model

    def _route(self, name: str, dialect: str, bound: str | None, alone: bool) -> tuple[str, str]:
        candidates = self._routes[name].pairs()
        for provider_id, model in candidates[: 1 if alone else None]:
            self._fitting([self._providers[provider_id]], model, dialect, bound)
        return candidates[0] if alone else (name, "")

    def _candidates(self, model: str, dialect: str) -> list[ProviderConfig]:
        """The providers that a model's name alone points to; at least one. Raises NoLane."""
        every = list(self._providers.values())
        if naming := [provider for provider in every if _lists(provider, model)]:
            return naming
        kinds = {kind for kind, prefix in _PREFIXES.items() if prefix.match(model)}
        if of_kind := [provider for provider in every if provider.type in kinds]:
            return of_kind
        if len(every) == 1:
            return every
        if of_dialect := [provider for provider in every if provider.type == dialect]:
            return of_dialect
        before, slash, after = model.partition("/")
        if slash and (near := nearest(before, self._providers)):
            raise NoLane(f"no provider {show(before)} for model {show(model)}{near} ({self._configured()})")
        raise NoLane(
            f"no provider for model {show(model)}: add \"provider\" to the line, write it as 'provider/model', or "
            f"name it in a provider's models ({self._configured()})"
        )

    def _fitting(self, candidates: list[ProviderConfig], model: str, dialect: str, bound: str | None) -> str:
        """The id of the one candidate that takes the body; one that takes it untouched goes first. Raises NoLane."""
        fit = [provider for provider in candidates if bound is None or _untouched(provider, dialect)]
        if not fit:
            raise NoLane(
                f"{_BODIES.get(dialect, 'its body')} for {bound} can't go to {_names(candidates)} (type "
                f"{candidates[0].type}) for model {show(model)}: only chat is translated; use a provider of type {dialect}"
            )
        if len(fit) > 1 and (own := [provider for provider in fit if provider.type == dialect]):
            fit = own
        if len(fit) == 1:
            return fit[0].id
        raise NoLane(
            f'model {show(model)} could go to {_names(fit)}: add "provider" to the line, put its id in '
            f"front, as in '{fit[0].id}/…', or name the model in the models of one of them only"
        )

    def _configured(self) -> str:
        return f"configured: {', '.join(self._providers)}"


def _lists(provider: ProviderConfig, model: str) -> bool:
    """Returns whether a model's whole name, prefix included, is one of this provider's."""
    own = model.startswith(f"{provider.id}/") and _OWN_NAMES.fullmatch(model) is not None
    return own or provider.names_model(model)


def _untouched(provider: ProviderConfig, dialect: str) -> bool:
    """Whether a body needs no translation; a plugin says itself, at the call, what it can't take."""
    return provider.type == dialect or provider.type not in _BUILT_IN


def _names(providers: Iterable[ProviderConfig]) -> str:
    return " or ".join(f"provider {provider.id!r}" for provider in providers)


def _check_model(model: str) -> None:
    """Raises NoLane for a name that has no place in a column."""
    if len(model) > LONGEST_MODEL:
        raise NoLane(f"model is {len(model)} characters long; at most {LONGEST_MODEL} are taken")
    if "\0" in model or any("\ud800" <= letter <= "\udfff" for letter in model):
        raise NoLane("model holds a NUL or half a character")
