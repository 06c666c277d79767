"""A database that holds what no program of ours writes, told as such: whoever reads it stumbles somewhere, and that says nothing.

It looks only after somebody has stumbled, and mends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from models.database import Database, storage_errors
from models.errors import StorageError
from models.store import batches, damage
from models.wording import counted

NEWEST = 1000
"""So many batches are looked at."""


@contextmanager
def told_errors(database: Database) -> Iterator[None]:
    """`storage_errors`, and what Python says of a text where a number should be becomes a StorageError that names it."""
    with storage_errors(database):
        try:
            yield
        except (TypeError, ValueError, OverflowError) as error:
            found = _found(database)
            if found is None:
                raise
            raise StorageError(f"{database.shown} is damaged: {found}. What helps is a backup") from error


def _found(database: Database) -> str | None:
    """The first damage in a sentence; None where there is none."""
    if not database.sqlite:
        return None
    with database.read() as connection:
        for row in batches.newest_first(connection, NEWEST):
            for one in damage.damaged(connection, row["id"]):
                what = f"batch {row['id']} has {counted(one.number, 'row')} of {one.table} without a {one.wanted} in {one.column}"
                return what + (f" ({', '.join(one.custom_ids)})" if one.custom_ids else "")
    return None
