"""Warns of models that a batch asks for and that their provider will shut down, by the lists that were kept when somebody asked.

It asks no provider: without a kept list it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from models.config import Config
from models.database import home
from models.model_lists import kept, warnings


def shutdowns(config: Config, used: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each model of those that a batch uses, (lane, model) pairs as jobs have them, that is shut down soon, or was."""
    lists = kept(home())
    return warnings(config, used, lists, datetime.now(UTC)) if lists else []
