"""Rescue without a worker: what crashed workers of this machine held is given back, so that a cancelled batch reaches its end by itself.

It judges no worker by its silence: that takes somebody who watches its beats for a while, which the workers' janitor does.
"""

from __future__ import annotations

from models.database import Database
from models.store import batches, jobs, workers


def rescue(database: Database) -> int:
    """Gives back the running jobs of workers whose processes are gone from this machine, or that are registered no more, as the next
    worker's janitor would; their calls stay `unknown`. How many jobs."""
    number, chunk = 0, -1
    while chunk:  # in chunks, so that workers get their turns in between
        with database.write() as connection:
            if dead := workers.gone(workers.everyone(connection)):
                workers.remove(connection, dead)
            chunk = jobs.rescue(connection, None)
        number += chunk
    return number


def end_cancelled(database: Database, batch_id: int) -> None:
    """Does all that can be done now to end a cancelled batch: its jobs in dead hands are rescued, its queued ones cancelled. It has
    ended then unless calls are under way. Changes nothing of a batch that isn't cancelled but its end, if that is due."""
    rescue(database)
    chunk = -1
    while chunk:  # in chunks, as above
        with database.write() as connection:
            chunk = jobs.cancel_queued(connection, batch_id, database.now(connection))
    with database.write() as connection:
        batches.finish_if_done(connection, batch_id, database.now(connection))
