"""How the quotas that keys draw on are called, in every table and in Redis."""

from __future__ import annotations

from models.config import KeyConfig, ProviderConfig


def pool_name(provider: ProviderConfig, key: KeyConfig) -> str:
    """The quota that a key draws on: its own, unless it names one that it shares."""
    return f"pool:{key.pool}" if key.pool else f"{provider.id}/{key.id}"


def share(key: KeyConfig, limit: int) -> int:
    """Returns our share of a limit of this key."""
    return max(1, int(limit * key.use + 1e-9))
