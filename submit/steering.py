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
from submit.rescue import end_cancelled

BY_HAND = "paused by hand"


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a cancelled batch stands: its jobs that will never be sent, those that workers `held` unsent and give up within seconds, and
    calls under way, which finish and are kept; `lost` when there are such and no worker lives that could end them: the next one does.
    """

    cancelled: int
    held: int
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
    """Stops a batch: its queued jobs are cancelled, and those of workers that died on this machine; calls under way finish.

    Raises NotFoundError, ConflictError.
    """
    with database.write() as connection:
        row = batches.get(connection, batch_id)
        stopped = batches.cancel(connection, batch_id)
    if not stopped and (row["status"] != BatchStatus.CANCELLED or row["finished_at"] is not None):
        raise ConflictError(f"batch {batch_id} has ended already: it is {row['status']}")
    end_cancelled(database, batch_id)
    with database.read() as connection:
        # the batch's own count: workers that live have cancelled a part of it
        counts = batches.counts(connection, batch_id)
        running = min(job_store.in_flight(connection, batch_id), counts.left)
        lost = batches.get(connection, batch_id)["finished_at"] is None and not live_workers(
            connection, database.now(connection)
        )
        return Stopped(counts.cancelled, counts.left - running, running, lost)


def wake(database: Database, settings: Config | None, batch_id: int) -> list[str]:
    """Rings for a batch's queued jobs where a Redis URL is configured. Sentences for people: what failed, or who else will work."""
    if settings is None or not settings.redis_url:
        return ["`truckllm worker` works on it, here; so does `truckllm run` with the same file"]
    with database.read() as connection:
        lanes = outcomes.queued_lanes(connection, batch_id)
        left = batches.counts(connection, batch_id).left
    warned = call_workers(database, settings, dict.fromkeys(lanes, left), settings.redis_url)
    return [f"warning: {warning}" for warning in warned]
