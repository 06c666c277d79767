"""Steering a batch: pause, resume, cancel, put it before others; and whom to wake then. Commands and the HTTP API share it.

It prints nothing: what people should know is returned.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.config import Config
from models.database import Database
from models.errors import ConflictError
from models.states import BatchStatus
from models.store import batches, budgets, outcomes
from models.store import jobs as job_store
from submit.batch_options import checked_priority
from submit.bell import live_workers
from submit.producer import call_workers

BY_HAND = "paused by hand"


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a cancellation did: jobs that will never be sent, and calls under way, which finish and are kept; `lost` when jobs are
    claimed and no worker lives that could end them: the next one does.
    """

    cancelled: int
    running: int
    lost: bool


def pause(database: Database, batch_id: int) -> str | None:
    """Nothing more of a batch is sent from now on. None, or why it is paused already. Raises NotFoundError, ConflictError."""
    with database.write() as connection:
        row = batches.get(connection, batch_id)
        if batches.pause(connection, batch_id, BY_HAND):
            return None
        if row["status"] != BatchStatus.PAUSED:
            raise ConflictError(
                f"batch {batch_id} is {row['status']}: only one that is queued or running can be paused"
            )
        return str(row["paused_reason"])


def resume(database: Database, batch_id: int, limit: tuple[int, str] | None = None) -> None:
    """A paused batch goes on, until it has cost `limit` (nano-units, currency) if that is given. Raises NotFoundError, ConflictError."""
    with database.write() as connection:
        row = batches.get(connection, batch_id)
        if not batches.resume(connection, batch_id):
            raise ConflictError(f"batch {batch_id} is {row['status']}, not paused")
        if limit:  # after the batch, as everybody locks them
            budgets.cap(connection, batch_id, *limit)


def prioritise(database: Database, batch_id: int, number: int) -> int:
    """Puts a batch before others (higher) or behind them; its priority before. Raises NotFoundError, ConflictError."""
    checked_priority(number)
    with database.write() as connection:
        row = batches.get(connection, batch_id)
        if not batches.set_priority(connection, batch_id, number):
            raise ConflictError(f"batch {batch_id} has ended already: it is {row['status']}")
        return int(row["priority"])


def cancel(database: Database, batch_id: int) -> Stopped:
    """Stops a batch: its queued jobs are cancelled, calls under way finish. Raises NotFoundError, ConflictError."""
    with database.write() as connection:
        row = batches.get(connection, batch_id)
        stopped = batches.cancel(connection, batch_id)
    if not stopped and (row["status"] != BatchStatus.CANCELLED or row["finished_at"] is not None):
        raise ConflictError(f"batch {batch_id} has ended already: it is {row['status']}")
    number, chunk = 0, -1
    while chunk:  # in chunks, so that workers get their turns in between
        with database.write() as connection:
            chunk = job_store.cancel_queued(connection, batch_id, database.now(connection))
        number += chunk
    with database.write() as connection:
        batches.finish_if_done(connection, batch_id, database.now(connection))
    with database.read() as connection:
        running = job_store.in_flight(connection, batch_id)
        open_jobs = batches.get(connection, batch_id)["finished_at"] is None
        return Stopped(number, running, open_jobs and not live_workers(connection, database.now(connection)))


def wake(database: Database, settings: Config | None, batch_id: int) -> list[str]:
    """Rings for a batch's queued jobs where a Redis URL is configured. Sentences for people: what failed, or who else will work."""
    if settings is None or not settings.redis_url:
        return ["`truckllm worker` works on it, here; so does `truckllm run` with the same file"]
    with database.read() as connection:
        lanes = outcomes.queued_lanes(connection, batch_id)
        left = batches.counts(connection, batch_id).left
    warned = call_workers(database, settings, dict.fromkeys(lanes, left), settings.redis_url)
    return [f"warning: {warning}" for warning in warned]
