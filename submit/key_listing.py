"""The configured keys as commands and the HTTP API show them: their states, waits, learned limits and limits by day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection, RowMapping

from models.config import Config
from models.day_limits import DayUse, day_uses, standing_waits
from models.learning import Lowered, of_keys
from models.store import keys, learned
from models.store.cooldowns import Cooldown
from models.store.learned import Learned
from submit import shapes
from submit.obstacles import state_of


@dataclass(frozen=True, slots=True)
class KeyListing:
    """All that is stored of a configuration's keys at one moment; `learned` and `days` by (provider, key id)."""

    config: Config
    states: list[RowMapping]
    waits: list[Cooldown]
    learned: dict[tuple[str, str], list[tuple[Learned, list[Lowered]]]]
    days: dict[tuple[str, str], list[DayUse]]
    now: float

    def rows(self) -> list[dict[str, Any]]:
        """Returns the keys as JSON, in the order of the configuration."""
        return [
            shapes.key(
                provider,
                key,
                state_of(provider, key, self.states),
                self.waits,
                self.learned.get((provider.id, key.id), ()),
                self.now,
                self.days.get((provider.id, key.id), ()),
            )
            for provider in self.config.providers
            for key in provider.keys
        ]


def read_keys(connection: Connection, config: Config, now: float) -> KeyListing:
    """Reads it; `now` is the database's."""
    return KeyListing(
        config,
        list(keys.everything(connection)),
        standing_waits(connection, config, now),
        of_keys(config.providers, learned.everything(connection, now)),
        day_uses(connection, config, now),
        now,
    )
