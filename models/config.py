"""The tree of truckllm.yaml: providers, keys, models, prices, routes, storage, worker settings.

It does not read files, variables or YAML (`models.config_file` does), and it knows no dialect beyond its default base URL.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from models.config_addresses import (
    DatabaseUrl,
    HeaderName,
    Headers,
    HeaderText,
    ModelPath,
    Query,
    RedisUrl,
    checked_base_url,
)
from models.config_agreement import Problem, disagreements, several, unlimited_keys, unpriced_candidates
from models.config_fields import (
    DAY_LIMIT_FIELDS,
    LIMIT_FIELDS,
    WRONG_UNSEEN,
    Candidate,
    ClassPath,
    Count,
    DayZone,
    EmptyAnswers,
    Flag,
    Id,
    Limit,
    Limits,
    Names,
    Options,
    PriceListName,
    Seconds,
    SecondsOrNone,
    Secret,
    SecretText,
    Share,
    Strategy,
    StrategyName,
    Text,
    is_true,
    models_by_name,
    nearest,
    wrong,
)
from models.config_signals import SignalConfig
from models.days import DEFAULT_ZONE
from models.errors import NotFoundError
from models.price_list import listed
from models.pricing import Node, Pricing

__all__ = [
    "ApiConfig",
    "Config",
    "KeyConfig",
    "LimitsConfig",
    "ModelConfig",
    "Pricing",
    "ProviderConfig",
    "RouteConfig",
    "Secret",
    "SignalConfig",
    "Strategy",
    "WorkerConfig",
]

BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1",
    "claude": "https://api.anthropic.com/v1",
}
"""Where the known dialects live; any other type has to name its `base_url`."""

_KEYS_IN_A_HEADER_OF_THEIR_OWN = ("gemini", "claude")

ANTHROPIC_VERSION = "2023-06-01"
CLAUDE_MAX_TOKENS = 4096
TIMEOUT_SECONDS = 600.0
CONNECT_TIMEOUT_SECONDS = 5.0
STREAM_SILENCE_SECONDS = 60.0
NO_KEY = "none"
"""The secret of a key that is sent to nobody: that of a `keyless` provider."""


class LimitsConfig(Node):
    """Limits a minute and a local day; None is no limit. What counts as a token is the dialect's own rule."""

    limit_req_per_min: Limit | None = None
    limit_tokens_per_min: Limit | None = None
    limit_input_tokens_per_min: Limit | None = None
    limit_output_tokens_per_min: Limit | None = None
    limit_req_per_day: Limit | None = None
    limit_tokens_per_day: Limit | None = None

    def limits(self) -> dict[str, int]:
        """The limits a minute that are set, by field name."""
        return {name: getattr(self, name) for name in LIMIT_FIELDS if getattr(self, name) is not None}

    def day_limits(self) -> dict[str, int]:
        """Returns the limits a day that are set, by field name."""
        return {name: getattr(self, name) for name in DAY_LIMIT_FIELDS if getattr(self, name) is not None}


class ModelConfig(LimitsConfig):
    """What differs for one model: its own limits (beside the key's), its price, its context window and its longest output in tokens."""

    pricing: Pricing | None = None
    context_window: Count | None = None
    max_output_tokens: Count | None = None


Models = Annotated[dict[Text, ModelConfig], BeforeValidator(models_by_name)]


class KeyConfig(LimitsConfig):
    """One API key with its limits.

    Keys that share a quota name the same `pool`. `use` is the share of the limits that is ours. `models` holds limits and
    prices that differ by model on this key. `day_resets` is the time zone of its days, before the provider's. `organization` and
    `project` are OpenAI's, for keys of more than one. `learning` (`limits` in the file) goes before the provider's.
    """

    id: Id
    secret: SecretText
    pool: Id | None = None
    use: Share = 1.0
    day_resets: DayZone | None = None
    models: Models = Field(default_factory=dict)
    pricing: Pricing | None = None
    organization: HeaderText | None = None
    project: HeaderText | None = None
    learning: Limits | None = Field(default=None, alias="limits")


class ProviderConfig(Node):
    """One endpoint: a dialect (`type`, by default the id), where it lives, its keys, and what differs by model.

    `plugin` (`class` in the file) is "module:Class", in place of a type that an entry point claims; then `type` is empty.
    `base_url` holds the version and no trailing slash. `fallback_models` names, for a model, those to try when the
    provider doesn't have it. `first_token_seconds` bounds a stream's time to its first token, while another candidate is free.
    `default_output_tokens` is the estimate while nothing is learned. `limits` "learn" lowers rates and calls in flight to what the server
    takes. `day_resets` is the time zone at whose midnight limits a day begin again. `signals` are its ways of refusing a call, compared before the built-in tables. `options` is for plugins.
    """

    id: Id
    name: Text = ""
    type: Text = ""
    plugin: ClassPath = Field(default="", alias="class")
    allow_http: Flag = False
    base_url: str = Field(default="", validate_default=True)
    keyless: Flag = False
    key_header: HeaderName | None = None
    keys: tuple[KeyConfig, ...]
    models: Models = Field(default_factory=dict)
    fallback_models: dict[Text, Names] = Field(default_factory=dict)
    headers: Headers = Field(default_factory=dict, repr=False)
    query: Query = Field(default_factory=dict)
    model_path: ModelPath = ""
    organization: HeaderText | None = None
    project: HeaderText | None = None
    anthropic_version: Text = ANTHROPIC_VERSION
    drop_sampling: Flag = False
    max_tokens: Count = CLAUDE_MAX_TOKENS
    timeout_seconds: Seconds = TIMEOUT_SECONDS
    connect_timeout_seconds: Seconds = CONNECT_TIMEOUT_SECONDS
    stream_silence_seconds: Seconds = STREAM_SILENCE_SECONDS
    first_token_seconds: Seconds | None = None
    default_output_tokens: Count | None = None
    limits: Limits | None = None
    day_resets: DayZone = DEFAULT_ZONE
    signals: tuple[SignalConfig, ...] = ()
    options: Options = Field(default_factory=dict, repr=False)

    _place: str = PrivateAttr(default="")
    _folder: Path | None = PrivateAttr(default=None)
    _price_list: str | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _name_and_type_default_to_id(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("id"), str):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        defaults: dict[str, Any] = {"name": given["id"]}
        if "class" not in given:
            defaults["type"] = kind = given.get("type", given["id"])
            if isinstance(kind, str) and kind in BASE_URLS:
                defaults["base_url"] = BASE_URLS[kind]
        if is_true(given.get("keyless")):
            defaults["keys"] = [{"id": "local", "secret": NO_KEY}]
            if isinstance(keys := given.get("keys"), list | tuple):
                given["keys"] = [{"secret": NO_KEY, **key} if isinstance(key, dict) else key for key in keys]
        return {**defaults, **given}

    @field_validator("base_url", mode="plain")
    @classmethod
    def _check_base_url(cls, url: Any, info: ValidationInfo) -> str:
        if url == "":
            known = ", ".join(BASE_URLS)
            raise wrong(
                f"is missing: only the types {known} have a default; should be like https://host/v1", WRONG_UNSEEN
            )
        return checked_base_url(url, allow_http=info.data.get("allow_http", False))

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Self:
        """The class and the key's ways are said once, and only where they are heard."""
        found: list[Problem] = []
        if self.plugin and self.type:
            found.append((("class",), f"stands beside type: {self.type!r}; keep one of them"))
        if self.keyless:
            kept = [key.secret.usable and key.secret.reveal() == NO_KEY for key in self.keys]
            found += [
                (("keys", index, "secret"), "would never be sent, because of keyless: true; leave one of them out")
                for index, empty in enumerate(kept)
                if not empty
            ]
        if self.type in _KEYS_IN_A_HEADER_OF_THEIR_OWN:
            given = {"keyless": self.keyless, "key_header": self.key_header, "model_path": self.model_path}
            why = f"is for OpenAI-compatible servers and plugins; the dialect {self.type} has its own way"
            found += [((name,), why) for name, value in given.items() if value]
        if self.keyless and self.key_header:
            found.append((("key_header",), "has no key to carry, because of keyless: true; leave one of them out"))
        if found:
            raise several(found)
        return self

    @model_validator(mode="after")
    def _keys_have_their_own_ids(self) -> Self:
        if not self.keys:
            raise several([(("keys",), "is empty: a provider needs at least one key (id and secret)")])
        twice = [
            (("keys", index, "id"), f"{key.id!r} is also the id of another key of this provider")
            for index, key in enumerate(self.keys)
            if key.id in {earlier.id for earlier in self.keys[:index]}
        ]
        if twice:
            raise several(twice)
        return self

    @property
    def place(self) -> str:
        """Where it stands in the configuration, `providers[0]`; its id where it stands in none."""
        return self._place or f"provider {self.id}"

    @property
    def folder(self) -> Path | None:
        """The folder of the file it stands in, absolute: a plugin's class may lie there. None without a file."""
        return self._folder

    def key(self, key_id: str) -> KeyConfig:
        """The key with this id. Raises NotFoundError."""
        for key in self.keys:
            if key.id == key_id:
                return key
        raise NotFoundError(f"provider {self.id} has no key {key_id!r}{nearest(key_id, (key.id for key in self.keys))}")

    def names_model(self, model: str) -> bool:
        """Whether a `models` list of this provider or of one of its keys names the model."""
        return model in self.models or any(model in key.models for key in self.keys)

    def learns(self, key: KeyConfig) -> bool:
        """Returns whether the server's real limits are learned on this key: its own `limits` go before the provider's; where neither is
        set, keys learn that have no limit a minute."""
        if said := key.learning or self.limits:
            return said == "learn"
        return not key.limits() and not any(self.model_limits(key, model) for model in {*self.models, *key.models})

    def model_limits(self, key: KeyConfig, model: str) -> dict[str, int]:
        """The limits a minute that hold for this model on this key, beside the key's own: the key's word goes first."""
        of_provider, of_key = self.models.get(model), key.models.get(model)
        return {**(of_provider.limits() if of_provider else {}), **(of_key.limits() if of_key else {})}

    def model_day_limits(self, key: KeyConfig, model: str) -> dict[str, int]:
        """Returns the limits a day that hold for this model on this key, as `model_limits` does those a minute."""
        of_provider, of_key = self.models.get(model), key.models.get(model)
        return {**(of_provider.day_limits() if of_provider else {}), **(of_key.day_limits() if of_key else {})}

    def day_zone(self, key: KeyConfig) -> str:
        """Returns the time zone in which this key's days begin."""
        return key.day_resets or self.day_resets

    def max_output_tokens(self, key: KeyConfig, model: str) -> int | None:
        """Returns the most that this model can write in one call on this key, if it is configured."""
        settings = [models[model] for models in (key.models, self.models) if model in models]
        return next((one.max_output_tokens for one in settings if one.max_output_tokens), None)

    def pricing(self, key: KeyConfig, model: str) -> Pricing | None:
        """The price of this model on this key: the key's for the model, else the provider's, else the key's for all.

        A fine-tuned model, ft:BASE:ORG:NAME:ID, is looked up by its whole name, then as ft:BASE, then as BASE. Where none has one,
        the price list's word counts, if the configuration switches one on.
        """
        for name in _priced_names(model):
            for models in (key.models, self.models):
                if name in models and models[name].pricing is not None:
                    return models[name].pricing
        if key.pricing is None and self._price_list is not None:
            return listed(self.id, self.type, self.base_url, model)
        return key.pricing


def _priced_names(model: str) -> tuple[str, ...]:
    if not model.startswith("ft:"):
        return (model,)
    base = model.removeprefix("ft:").partition(":")[0]
    return model, f"ft:{base}", base


class RouteConfig(Node):
    """Ordered candidates "provider/model" for one lane, and the strategy that chooses between them.

    Lines that ask for one of `models`, and name neither provider nor route, go by this route.
    """

    candidates: tuple[Candidate, ...]
    strategy: StrategyName = "priority"
    models: Names = ()

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The candidates as (provider id, model). A model's name may hold slashes itself."""
        return tuple((provider, model) for provider, _, model in (c.partition("/") for c in self.candidates))


class WorkerConfig(Node):
    """How much a worker does at once (`concurrency`: calls in flight per provider and process) and for how long."""

    concurrency: Count = 256
    processes: Count = 1
    grace_seconds: SecondsOrNone = 60.0
    retry_for: SecondsOrNone = 3600.0
    max_attempts: Count = 5
    empty_answers: EmptyAnswers = "keep"
    budget_seconds: Seconds = 20.0
    max_response_bytes: Count = 128 * 1024 * 1024


class ApiConfig(Node):
    """Limits of `truckllm api`: connections, requests, sizes and times. What a caller without a token can take is bounded by each."""

    connections: Count = 500
    connections_per_peer: Count = 64
    requests: Count = 64
    head_seconds: Seconds = 10.0
    idle_seconds: Seconds = 15.0
    body_seconds: Seconds = 3600.0
    stall_seconds: Seconds = 30.0
    bytes_per_second: Count = 1024
    grace_seconds: SecondsOrNone = 10.0
    submissions: Count = 2
    uploads: Count = 16
    uploads_mb: Count = 8192


class Config(Node):
    """The whole of truckllm.yaml."""

    providers: tuple[ProviderConfig, ...]
    routes: dict[Id, RouteConfig] = Field(default_factory=dict)
    redis_url: RedisUrl | None = Field(default=None, repr=False)
    database_url: DatabaseUrl | None = Field(default=None, repr=False)
    price_list: PriceListName | None = None
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    api: ApiConfig = Field(default_factory=ApiConfig)

    _path: Path | None = PrivateAttr(default=None)
    _keys_found: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if not self.providers:
            raise several([(("providers",), "is empty: name at least one provider")])
        for provider in self.providers:
            provider._price_list = self.price_list
        ids = [provider.id for provider in self.providers]
        found = disagreements(dict(enumerate(self.providers)), self.routes, ids)
        if found:
            raise several(found)
        for index, provider in enumerate(self.providers):
            provider._place = f"providers[{index}]"
        return self

    @property
    def path(self) -> Path | None:
        """The file this was read from; None for a configuration made in Python."""
        return self._path

    @property
    def from_environment(self) -> bool:
        """Whether there is no file, only keys found in the environment; `warnings` says that then."""
        return bool(self._keys_found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but probably not meant, each with its YAML path."""
        if self._keys_found:
            return (
                f"no truckllm.yaml: this goes by {', '.join(self._keys_found)} alone, with NO LIMITS and NO PRICES: expect 429s, and "
                "costs that are only counted in tokens. `truckllm init` writes a file to fill in",
            )
        return (*unlimited_keys(self.providers), *unpriced_candidates(self.providers, self.routes))

    def provider(self, provider_id: str) -> ProviderConfig:
        """The provider with this id. Raises NotFoundError, naming the nearest one."""
        for provider in self.providers:
            if provider.id == provider_id:
                return provider
        known = [provider.id for provider in self.providers]
        raise NotFoundError(
            f"no provider {provider_id!r}{nearest(provider_id, known)} (configured: {', '.join(known)})"
        )

    def config_hash(self) -> str:
        """16 hex digits that tell whether two processes work by the same settings.

        Secrets, values of headers and options, the storage URLs (the same store can have two names) and the API's limits don't count. Nor does what is as
        by default: code of another version may not know it.
        """
        tree = self.model_dump(mode="json", exclude={"redis_url", "database_url", "api"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
