"""Removing a batch from the database: what was asked and answered goes, what was paid stays.

It asks nobody whether it should; the commands do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from models.database import Database
from models.states import BatchStatus
from models.store import batches, jobs, loads, removals
from submit.loading import has_died
from submit.rescue import end_cancelled

LOOK_SECONDS = 0.5


def stop(database: Database, batch_id: int, wait: Callable[[int], None]) -> None:
    """Cancels an unfinished batch and waits until nothing of it is under way; `wait` is told how many calls are, now and then.

    Raises NotFoundError.
    """
    with database.write() as connection:
        batches.cancel(connection, batch_id)
    while True:
        end_cancelled(database, batch_id)
        with database.read() as connection:
            row = batches.get(connection, batch_id)
            if row["finished_at"] is not None or row["status"] in (BatchStatus.FINALIZING, BatchStatus.DELETING):
                return
            running = jobs.in_flight(connection, batch_id)
        wait(running)
        time.sleep(LOOK_SECONDS)


def remove(database: Database, batch_id: int) -> int | None:
    """Removes an ended batch, or a load that nobody goes on with; how many jobs it had. None, and nothing done, when it is
    unfinished. Can be repeated when it was cut short."""
    with database.read() as connection:
        stands = batches.progress(connection, batch_id)
    if stands is not None and stands[0] == BatchStatus.CANCELLED:
        end_cancelled(database, batch_id)  # what is left of it may be in dead hands only
    with database.write() as connection:
        loader = loads.loader(connection, batch_id)
        if loader and has_died(loader):
            batches.release(connection, batch_id, loader)
        if not removals.begin(connection, batch_id, database.now(connection)):
            return None
    number, chunk = 0, -1
    while chunk:  # in chunks, so that workers get their turns in between
        with database.write() as connection:
            chunk = removals.remove(connection, batch_id)
        number += chunk
    return number


def room(database: Database) -> str:
    """What a person may do to get the disk's room back."""
    if database.sqlite:
        return (
            f"the file keeps its size and reuses the room; while nothing else runs, "
            f"`sqlite3 {database.url.database} VACUUM` makes it smaller"
        )
    return "PostgreSQL reuses the room by itself; `VACUUM FULL jobs, job_inputs, results` gives it back to the system"
