"""`truckllm cancel`: stops a batch. Nothing of it is claimed from then on; calls under way finish and are kept."""

from __future__ import annotations

from models.errors import UsageError
from models.states import BatchStatus
from models.store import batches
from models.store import jobs as job_store
from models.wording import counted
from submit.cli.options import BatchArgument, ConfigOption, found_config, stored
from submit.cli.output import note


def cancel(batch: BatchArgument, config: ConfigOption = None) -> None:
    """Stop a batch: its queued jobs are cancelled; calls under way finish, and their results are kept (they are paid for)."""
    with stored(found_config(config)) as database:
        with database.write() as connection:
            row = batches.get(connection, batch)
            stopped = batches.cancel(connection, batch)
        if not stopped and (row["status"] != BatchStatus.CANCELLED or row["finished_at"] is not None):
            raise UsageError(f"batch {batch} has ended already: it is {row['status']}")
        number = chunk = -1
        number = 0
        while chunk:  # in chunks, so that workers get their turns in between
            with database.write() as connection:
                chunk = job_store.cancel_queued(connection, batch, database.now(connection))
            number += chunk
        with database.write() as connection:
            batches.finish_if_done(connection, batch, database.now(connection))
        with database.read() as connection:
            running = job_store.in_flight(connection, batch)
    note(
        f"batch {batch}: {counted(number, 'job')} cancelled"
        + (f", {running:,} {'is' if running == 1 else 'are'} under way and will finish" if running else "")
    )
