"""Reads what jobs ask: the beginnings of their prompts for lists, and failed lines as an input again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from sqlalchemy.engine import Connection, RowMapping

from models.database import Database
from models.errors import UsageError
from models.formats.stored_lines import input_line, prompt_excerpt
from models.store import batches, outcomes
from submit.exports import STDOUT, replacing, resolved_target

MOST_READ = 256 * 1024
"""Bytes of a body that are read for the beginning of its prompt; a larger one is not shown."""


def prompts_of(connection: Connection, rows: Sequence[RowMapping]) -> dict[int, str | None]:
    """Returns the beginning of each job's prompt by its number, for rows of `models.store.outcomes.listing`."""
    small = [row["id"] for row in rows if row["input_bytes"] <= MOST_READ]
    return {job_id: prompt_excerpt(body) for job_id, body in outcomes.bodies(connection, small)}


def export_failed(database: Database, batch_id: int, path: Path) -> tuple[int, int]:
    """Writes a batch's failed lines as an input ("-" is stdout), in their order and under their own ids; returns how many were written,
    and how many have no line that could be written (bad lines of a vendor's form).

    Raises NotFoundError, UsageError where nothing failed, StorageError.
    """
    with database.read() as connection:
        batch = batches.get(connection, batch_id)
        if not outcomes.failed_inputs(connection, batch_id, -1):
            raise UsageError(f"batch {batch_id} has no failed jobs: nothing was written")
    if str(path) == STDOUT:
        written = _write(sys.stdout.buffer, database, batch_id)
        sys.stdout.buffer.flush()
        return written
    target = resolved_target(path, batch, database)
    with replacing(target, "Make room, or name another file") as new:
        return _write(new.stream, database, batch_id)


def _write(stream: IO[bytes], database: Database, batch_id: int) -> tuple[int, int]:
    written = left_out = 0
    last = -1
    while True:
        with database.read() as connection:
            rows = outcomes.failed_inputs(connection, batch_id, last)
        if not rows:
            return written, left_out
        last = rows[-1]["position"]
        for row in rows:
            line = input_line(
                dialect=row["dialect"],
                operation=row["operation"],
                custom_id=row["custom_id"],
                model=row["model"],
                body=bytes(row["body"]),
                metadata=None if row["metadata"] is None else bytes(row["metadata"]),
            )
            if line is None:
                left_out += 1
                continue
            stream.write(line + b"\n")
            written += 1
