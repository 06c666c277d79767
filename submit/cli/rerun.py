"""`truckllm rerun`: puts a batch's failed jobs back into the queue; what succeeded is never paid twice."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError

from models.config_file import load_config
from models.errors import ConflictError
from models.states import BatchStatus
from models.store import batches, outcomes
from models.store import jobs as job_store
from submit.cli.options import BatchArgument, ConfigOption, stored
from submit.cli.output import note
from submit.producer import call_workers


def rerun(batch: BatchArgument, config: ConfigOption = None) -> None:
    """Put a batch's failed jobs back into the queue, and only those."""
    settings = load_config(config, secrets=False)
    with stored(settings) as database:
        with database.read() as connection:
            row = batches.get(connection, batch)
        if row["status"] == BatchStatus.CANCELLED:
            raise ConflictError(
                f"batch {batch} was cancelled: submit the file with --new, or only those of its lines that you want"
            )
        number = 0
        chunk = -1
        while chunk:
            try:
                with database.write() as connection:
                    chunk = job_store.rerun_failed(connection, batch)
            except IntegrityError:
                raise ConflictError(
                    f"another batch works on the same file with the same options: wait until it has finished "
                    f"(`truckllm status`), then rerun batch {batch}"
                ) from None
            number += chunk
        if not number:
            note(f"batch {batch} has no failed jobs")
            return
        note(f"batch {batch}: {number:,} failed jobs are queued again")
        with database.read() as connection:
            lanes = outcomes.queued_lanes(connection, batch)
        if settings.redis_url:
            for warning in call_workers(database, settings, dict.fromkeys(lanes, number), settings.redis_url):
                note(f"warning: {warning}")
        else:
            note("`truckllm worker` works on them, here")
