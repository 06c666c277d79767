"""Learned limits and the configuration: which keys learn, what they were learned under, and what is configured beside them."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence

from models.config import KeyConfig, ProviderConfig
from models.pools import pool_name, share
from models.store import keys as key_store

REQUESTS, TOKENS = "limit_req_per_min", "limit_tokens_per_min"


def learns(provider: ProviderConfig, key: KeyConfig) -> bool:
    """Returns whether the server's real limits are learned on this key: its own `limits` go before the provider's."""
    return (key.learning or provider.limits) == "learn"


def learning_pools(providers: Sequence[ProviderConfig]) -> set[str]:
    """Returns the pools of all keys that learn."""
    return {pool_name(provider, key) for provider in providers for key in provider.keys if learns(provider, key)}


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
            limits = [learns(provider, key), key.use, key.limits(), sorted((m, of) for m, of in models.items() if of)]
            parts.setdefault(pool, []).append([*address, *account, sent, secret, *limits])
    return dict.fromkeys(unknown) | {pool: _fingerprint(found) for pool, found in parts.items() if pool not in unknown}


def _fingerprint(parts: Iterable[list[object]]) -> str:
    text = json.dumps(sorted(json.dumps(part, sort_keys=True, default=str) for part in parts))
    return hmac.new(text.encode(), b"truckllm learned limits", hashlib.sha256).hexdigest()[:16]


def configured(provider: ProviderConfig, key: KeyConfig, model: str, limit: str) -> int | None:
    """Returns our share of a limit a minute that is configured for this model on this key; the smaller of key's and model's. None: none
    is."""
    found = [of[limit] for of in (key.limits(), provider.model_limits(key, model)) if limit in of]
    return share(key, min(found)) if found else None
