"""Warns of models that a batch asks for and that their provider will shut down, by the lists that were kept when somebody asked.

It asks no provider: without a kept list it says nothing, and reads nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime

from models.config import Config
from models.database import Database, home
from models.model_lists import kept, warnings
from models.store import outcomes


def shutdowns(database: Database, config: Config, batch_id: int) -> list[str]:
    """A sentence for each model of the batch that is shut down soon, or was."""
    lists = kept(home())
    if not lists:
        return []
    with database.read() as connection:
        used = [(lane, model) for _, lane, model in outcomes.open_models(connection, batch_id)]
    return warnings(config, used, lists, datetime.now(UTC))
