"""The stored answers as bytes: how many they are, and which of them don't unpack to their end.

It doesn't read what they say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from models.packing import Unpacker
from models.tables import jobs, results

READ_ROWS = 1000
READ_BYTES = 8 * 1024 * 1024


def size(connection: Connection) -> sa.ColumnElement[int]:
    """How many bytes of a row of `results` are its answer's, as it is stored; without fetching the values."""
    measure = sa.func.length if connection.dialect.name == "sqlite" else sa.func.pg_column_size
    return measure(results.c.response) + sa.func.coalesce(measure(results.c.text), 0)


def portions(
    connection: Connection, mine: tuple[sa.ColumnElement[bool], ...], low: int, high: int
) -> Iterator[list[int]]:
    """The answered jobs among `mine`, which have ids from `low` to `high`, in lists of such as can be read at once; a bigger one is alone."""
    query = (
        sa.select(results.c.job_id, size(connection))
        .join(jobs, jobs.c.id == results.c.job_id)
        .where(*mine, results.c.job_id.between(low, high))
    )
    portion: list[int] = []
    held = 0
    for job_id, number in connection.execute(query):
        if portion and (len(portion) == READ_ROWS or held + number > READ_BYTES):
            yield portion
            portion, held = [], 0
        portion.append(job_id)
        held += number
    if portion:
        yield portion


def damaged(connection: Connection, portion: Sequence[int], unpack: Unpacker) -> list[int]:
    """Those of the jobs whose answer is damaged: its bytes aren't those that were stored once."""
    query = sa.select(results.c.job_id, results.c.response, results.c.text).where(results.c.job_id.in_(portion))
    return [
        job_id for job_id, *packed in connection.execute(query) if not all(_is_whole(one, unpack) for one in packed)
    ]


def _is_whole(packed: bytes | None, unpack: Unpacker) -> bool:
    try:
        if packed is not None:
            unpack(packed)
    except ValueError:
        return False
    return True
