"""Which batches a transaction may have ended, for whoever commits it: a batch's end is looked at in a transaction after that one.

It changes nothing in the database. Notes of a transaction that was rolled back do no harm: looking twice is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.engine import Connection

_KEY = "truckllm_ends"


def note(connection: Connection, batch_ids: Iterable[int]) -> None:
    """Jobs of these batches have ended in this transaction."""
    connection.info.setdefault(_KEY, set()).update(batch_ids)


def noted(connection: Connection) -> set[int]:
    """What was noted on this connection since it was last asked."""
    found: set[int] = connection.info.pop(_KEY, set())
    return found
