"""Learned limits and the configuration: which keys learn, what they were learned under, and what is configured beside them.

It reads neither SQL nor Redis; `models.store.learned` and the worker do.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.config import KeyConfig, ProviderConfig
from models.pools import pool_name, share
from models.store import keys as key_store
from models.store.learned import Learned
from models.wording import learned_limits

_LIMITS = (("requests_per_min", "req"), ("tokens_per_min", "tokens"), ("in_flight", "in_flight"))
"""The fields of `Learned`, and how metrics call them; `limit_…_per_min` is the field that configures it."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A limit that was learned and lowers what is configured. `name` is the field of `Learned`, `kind` what metrics call it; `learned` is
    the server's limit, `configured` our share of the configured one (None where nothing is); `whole` is the learned one as it would be
    configured."""

    name: str
    kind: str
    learned: float
    configured: int | None
    whole: int

    @property
    def field(self) -> str | None:
        """The field that configures it; None: there is none."""
        return None if self.kind == "in_flight" else f"limit_{self.kind}_per_min"

    @property
    def sentence(self) -> str:
        """Both side by side: "300 requests a minute (configured 600)"."""
        amount = learned_limits(*(self.learned if name == self.name else None for name, _ in _LIMITS))
        if self.kind == "in_flight":
            return amount
        return f"{amount} ({'none configured' if self.configured is None else f'configured {self.configured:,}'})"


def learns_any(provider: ProviderConfig) -> bool:
    """Returns whether any key of the provider learns."""
    return any(provider.learns(key) for key in provider.keys)


def learning_pools(providers: Sequence[ProviderConfig]) -> set[str]:
    """Returns the pools of all keys that learn."""
    return {pool_name(provider, key) for provider in providers for key in provider.keys if provider.learns(key)}


def fingerprints(providers: Sequence[ProviderConfig]) -> dict[str, str | None]:
    """Returns, by pool, a fingerprint of all that its limits depend on: configured limits, secrets, accounts and addresses of its keys.

    None where a variable isn't set here, so that it can't be computed. No secret can be read from it.
    """
    parts: dict[str, list[list[object]]] = {}
    unknown = set()
    for provider in providers:
        for key in provider.keys:
            pool = pool_name(provider, key)
            address = [provider.type, provider.plugin, provider.base_url, provider.model_path]
            account = [key.organization or provider.organization, key.project or provider.project]
            sent = sorted({**provider.headers, **provider.query}.items())
            models = {model: provider.model_limits(key, model) for model in {*provider.models, *key.models}}
            if not key.secret.usable or any("${" in value for _, value in sent):
                unknown.add(pool)
                continue
            secret = key_store.fingerprint(key.secret.reveal())
            limits = [provider.learns(key), key.use, key.limits(), sorted((m, of) for m, of in models.items() if of)]
            parts.setdefault(pool, []).append([*address, *account, sent, secret, *limits])
    return dict.fromkeys(unknown) | {pool: _fingerprint(found) for pool, found in parts.items() if pool not in unknown}


def _fingerprint(parts: Iterable[list[object]]) -> str:
    text = json.dumps(sorted(json.dumps(part, sort_keys=True, default=str) for part in parts))
    return hmac.new(text.encode(), b"truckllm learned limits", hashlib.sha256).hexdigest()[:16]


def configured(provider: ProviderConfig, key: KeyConfig, model: str, field: str) -> int | None:
    """Returns our share of a limit a minute that is configured for this model on this key, the smaller of key's and model's; None: none
    is."""
    found = [of[field] for of in (key.limits(), provider.model_limits(key, model)) if field in of]
    return share(key, min(found)) if found else None


def lowered(provider: ProviderConfig, key: KeyConfig, one: Learned) -> list[Lowered]:
    """Returns those of the limits learned for a model on this key's pool that are below the configured ones."""
    found = []
    for name, kind in _LIMITS:
        learned: float | None = getattr(one, name)
        limit = configured(provider, key, one.model, f"limit_{kind}_per_min")
        ours = None if learned is None else learned * key.use
        if learned is not None and ours is not None and (limit is None or ours < limit):
            found.append(Lowered(name, kind, learned, limit, max(1, round(learned))))
    return found


def allows(name: str, model: str, limits: Iterable[Lowered]) -> str:
    """Returns what a server was found to allow, in a sentence; `name` is the key's or the pool's."""
    return f"{name}, model {model}: the server allows about {', '.join(one.sentence for one in limits)}"


def of_keys(
    providers: Sequence[ProviderConfig], found: Iterable[Learned]
) -> dict[tuple[str, str], list[tuple[Learned, list[Lowered]]]]:
    """Returns, by (provider id, key id), what is learned of the key's pool under its present configuration, with the limits that it
    lowers. Models without such a limit are left out, and keys without such models."""
    marks = fingerprints(providers) if (found := list(found)) else {}
    by_pool: dict[str, list[Learned]] = {}
    for one in found:
        if one.pool in marks and marks[one.pool] in (None, one.configured):
            by_pool.setdefault(one.pool, []).append(one)
    result = {}
    for provider in providers if by_pool else ():
        for key in provider.keys:
            of_pool = [(one, lowered(provider, key, one)) for one in by_pool.get(pool_name(provider, key), ())]
            if its := [(one, limits) for one, limits in of_pool if limits]:
                result[provider.id, key.id] = its
    return result


def once_a_pool(
    found: Mapping[tuple[str, str], list[tuple[Learned, list[Lowered]]]],
) -> list[tuple[str, Learned, list[Lowered]]]:
    """Returns what `of_keys` found with the "provider/key_id" of the first key of each pool: keys of one pool share it."""
    seen = set()
    result = []
    for (provider_id, key_id), its in found.items():
        for one, limits in its:
            if (one.pool, one.model) not in seen:
                seen.add((one.pool, one.model))
                result.append((f"{provider_id}/{key_id}", one, limits))
    return result
