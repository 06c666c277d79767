"""A worker's log: its layout, whose words are shown in it and from which level on, and how often the same is said.

It hides secrets by `worker.providers.masks`, and writes nothing itself.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings

from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from models.config import Config
from worker.providers.masks import MaskingFormatter

LAYOUT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TELL_AGAIN = 60.0
"""How often the same is told, in seconds: whoever met it tries again all the time."""


def begin(config: Config, database_url: str | None, redis_url: str) -> None:
    """Sets this process's log up. Lines go to stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(MaskingFormatter(LAYOUT, config, database_url, redis_url))
    logging.getLogger("truckllm").setLevel(logging.INFO)  # Celery raises the root's level while it starts
    logging.getLogger("celery").setLevel(logging.WARNING)
    logging.getLogger("kombu").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # whoever starts first makes the tables
    # it warns each time that a transaction of a database in trouble can't be ended in order, which the recorder has told once
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    # in a container root is usual, and the tickets are JSON, which is what the warning is about
    warnings.filterwarnings("ignore", category=SecurityWarning)
    # about a lost connection: a drain may go on then, because nothing depends on its ticket. Celery resets filters of `warnings`
    logging.getLogger("py.warnings").addFilter(
        lambda record: CPendingDeprecationWarning.__name__ not in record.getMessage()
    )


class Seldom:
    """What was told lately, by kind."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def news(self, kind: str) -> bool:
        """Whether such a thing has not been told lately; it is from now on."""
        now = time.monotonic()
        if now - self._told.get(kind, float("-inf")) < TELL_AGAIN:
            return False
        self._told[kind] = now
        return True

    def over(self, kind: str) -> None:
        """It has come to its end: the next time it is news."""
        self._told.pop(kind, None)
